"""How long a launch takes on a GPU: the same few formulas for every kernel.

A launch is so many blocks of so many threads, each of which waits for memory, works and waits again.
What a multiprocessor can hold of them at once, `resident`, follows from the compiler's registers and
shared memory; what it cannot, comes in rounds. A round takes

    fill      stages x (latency + bytes / bandwidth of the multiprocessor's share of L2 or memory)
    work      stages x the slowest of: tensor cores, FFMA units, issue slots (all of the resident
              blocks), one warp's instructions one after the other (of one block)
    ends      barriers, atomic chains (`serial`), and the stores

where fill and work of a pipelined kernel overlap but for the first fill and the last work; of another
one, as far as other blocks of the same multiprocessor are there to work meanwhile. A launch in a
recorded step costs Machine.launch besides, and one by itself `alone`.

Times are in microseconds, rates per microsecond: 1 TB/s = 1e6 bytes a microsecond.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One H200 at 1,980 MHz. What is measured or printed stands first; then what is fitted."""

    # Data sheet: multiprocessors, and what each holds (compute capability 9.0).
    multiprocessors: int = 132
    threads: int = 2048
    blocks: int = 32
    registers: int = 65536
    shared: int = 233472
    clock: float = 1980.0  # cycles a microsecond, held during the kernels (nvidia-smi)
    issue: float = 4.0  # instructions of warps a cycle, of a multiprocessor

    # bench/peak_cuda.cu, in the same run: FLOP or bytes a microsecond, of the whole GPU.
    ffma: float = 62.6e6
    mma: float = 316e6  # TF32, mma.sync
    wgmma: float = 430e6  # TF32; 414 to 445 by hand (h200-b2e8185-by-hand.json)
    memory: float = 4.21e6  # a large copy's
    gap: float = 0.52  # from a launch that does nothing to the next, in a graph

    # Fitted (predict.py --fit).
    ramp: float = 0.6  # a launch's own start and end, beyond the gap
    start: float = 0.04  # to start a block of 256 threads where another one ended
    l2: float = 5.5e6  # bytes a microsecond from L2, all multiprocessors
    l2_latency: float = 0.35  # from a load to its use, L2
    memory_latency: float = 0.5  # from memory, more than from L2
    l2_holds: float = 33e6  # bytes that calls one after the other find in L2 again
    cold: float = 3.3e6  # first reads of a launch from memory, bytes a microsecond
    loop_cycles: float = 1.3  # of an instruction in a loop that was written to overlap them
    cycles: float = 3.0  # of a warp's instruction, where it waits for the one before
    ffma_share: float = 0.65  # of the peak, in the loops of kernels
    barrier: float = 0.1  # a sum over the block, with its barriers
    serial: float = 0.1  # a division or root in double, or a 64-bit modulo, in a chain of them
    alone: float = 2.0  # a launch outside of a graph, its code and arguments not in any cache
    event: float = 0.5  # what the events around it measure besides


@dataclass(frozen=True)
class Launch:
    """Totals over all blocks, unless it says a block's or a warp's."""

    name: str
    blocks: int
    threads: int = 256
    registers: int = 32  # of a thread
    shared: int = 0  # bytes of a block, static and dynamic
    read: float = 0  # bytes that blocks ask L2 for
    fresh: float = 0  # of these, each once, what this call is given: cold, these are in no cache
    write: float = 0
    ffma: float = 0  # FLOP
    mma: float = 0
    wgmma: float = 0
    instructions: float = 100  # of a warp, once, each waiting for the one before
    stages: int = 1  # rounds of loads
    fetch: float = 0  # instructions of a warp to bring a stage
    loop: float = 0  # instructions of a warp in its hottest loop, all rounds of it
    ahead: int = 0  # 0: loads, then work; 1: other warps load the next stage meanwhile; n: that many
    #                 stages of loads are under way
    barriers: float = 0  # sums over the block
    serial: float = 0  # slow operations, each waiting for the one before
    early: bool = False  # begins while the launch before ends (programmatic dependent launch)


def resident(launch, machine):
    """Blocks that one multiprocessor holds at once: registers by 256 a warp, shared memory by 128
    bytes and 1 KB for the system."""
    warps = -(-launch.threads // 32)
    a_warp = -(-launch.registers * 32 // 256) * 256
    shared = -(-launch.shared // 128) * 128 + 1024
    return min(machine.blocks, machine.threads // (warps * 32), machine.registers // a_warp // warps,
               machine.shared // shared)


def time(launch, machine, cold=0.0, evicted=0.0, alone=False):
    """Microseconds. `cold` is the share of what is fresh that comes from memory, `evicted` the share of
    what is written that L2 has to pass on to memory meanwhile."""
    m = machine
    a = launch.blocks
    of_one = -(-a // m.multiprocessors)  # blocks of the busiest multiprocessor
    rounds = -(-of_one // resident(launch, m))
    active = min(a, m.multiprocessors)
    warps = -(-launch.threads // 32)

    quantum = of_one * active / a  # the busiest multiprocessor's work over the average
    asked = launch.read * quantum / m.l2
    if launch.fresh * cold > 0:
        asked = max(asked, launch.fresh * cold * quantum / m.cold)
    latency = 0.0
    if launch.read:
        latency = m.l2_latency + (m.memory_latency if launch.fresh * cold > 0 else 0.0)
    fetch = latency + launch.fetch * m.cycles / m.clock
    stored = launch.write * quantum * max(1 / m.l2, evicted / m.cold)
    chain = launch.instructions * m.cycles / m.clock
    ends = launch.barriers * m.barrier + launch.serial * m.serial
    slots = (launch.instructions + launch.loop + launch.fetch * launch.stages) * warps * of_one
    units = max(launch.ffma / (m.ffma * m.ffma_share), launch.mma / m.mma,
                launch.wgmma / m.wgmma) * m.multiprocessors / active * quantum
    work = max(units, slots / (m.issue * m.clock))
    if launch.ahead == 0:
        waves = max(1.0, of_one / resident(launch, m))
        chain += launch.loop * m.loop_cycles / m.clock
        flows = asked, max(work, waves * chain), stored
        total = (waves * (launch.stages * latency + ends) + max(flows)
                 + (sum(flows) - max(flows)) / of_one)
    else:
        at = 1 / (rounds * launch.stages)
        fill, work = fetch + asked * at, max(work * at, launch.loop * m.loop_cycles / m.clock
                                             / launch.stages)
        each = (max(fill, work) if launch.ahead == 1 else
                max(work, asked * at, (fill + work) / launch.ahead))
        total = rounds * (chain + fill + (launch.stages - 1) * each + work + ends) + stored
    total = max(total, launch.fresh * cold / m.memory) + of_one * m.start * warps / 8
    start = m.gap + m.ramp
    return start + total + (m.alone if alone else 0.0)
