"""How long a launch takes on a GPU: the same few formulas for every kernel.

A launch is so many blocks of so many threads. Each thread waits for memory, works, and waits again.
What a multiprocessor holds of the blocks at once follows from registers and shared memory, and what it
does not hold comes in waves. Two kinds of kernels:

in turn (ahead = 0)  Loads, then work, then stores. Waiting, latencies and sums over the block, is paid
                     in every wave. The flows (bytes from L2 or memory, work, bytes stored) take their
                     throughput; the longest is paid in full, and of the others what the blocks of a
                     multiprocessor, which are not all in the same phase, do not hide.
pipelined            Stages of loads beside the work on earlier ones: by other warps (ahead = 1: the
                     slower of the two sets the pace), or begun `ahead` stages before they are needed.

Times are in microseconds, rates a microsecond: 1 TB/s is 1e6 bytes a microsecond.
"""

from dataclasses import dataclass

FITTED = ("ramp", "l2", "l2_write", "l2_latency", "memory_latency", "cold", "cycles", "loop_cycles",
          "ffma_share", "barrier", "serial", "alone", "event")


@dataclass(frozen=True)
class Machine:
    """An H200. First what its data sheet says, then what bench_cuda measured of it (by itself, not of a
    kernel of ours), then what predict.py --fit takes from the times of our kernels."""

    # Compute capability 9.0: what a multiprocessor holds and does a cycle.
    threads: int = 2048
    blocks: int = 32
    registers: int = 65536
    shared: int = 233472  # bytes
    issue: float = 4.0  # instructions of warps
    port: float = 64.0  # bytes from or to L2

    # bench/results/gpu-nvidia-h200-b2e8185.json: clock and context; TF32 by wgmma and the clusters of
    # 1, 2, 4 and 8 blocks that fit at once by hand, in the same ten minutes.
    multiprocessors: int = 132
    clock: float = 1980.0  # cycles a microsecond, throughout
    ffma: float = 62.6e6  # FLOP
    mma: float = 316e6
    wgmma: float = 430e6
    memory: float = 4.21e6  # bytes of a large copy
    l2_holds: float = 62.9e6  # bytes
    gap: float = 0.52  # between launches that do nothing, in a graph
    clusters: tuple = (132, 66, 30, 15)

    # Fitted.
    ramp: float = 0.507  # what begin and end of a launch take beyond the gap
    l2: float = 5.13e6  # bytes read from L2, all multiprocessors
    l2_write: float = 2.65e6  # bytes written to it
    l2_latency: float = 0.3  # from a load to its use
    memory_latency: float = 0.115  # how much longer from memory
    cold: float = 2.13e6  # bytes read from memory into an L2 that must first write others back there
    cycles: float = 4.48  # of an instruction that waits for the one before
    loop_cycles: float = 2.55  # of one in a loop, or of many loads in a row
    ffma_share: float = 0.721  # of the peak, in a kernel's loop
    barrier: float = 0.182  # a sum over a block of eight warps, with its barriers
    serial: float = 0.0642  # a division or root in double, one of a chain
    alone: float = 1.35  # a launch outside of a graph, whose code and arguments are in no cache
    event: float = 1.36  # what events before and after add to a measurement

    def places(self, cluster):
        """Multiprocessors that blocks of such clusters can use at once."""
        return cluster * self.clusters[cluster.bit_length() - 1]


@dataclass(frozen=True)
class Launch:
    """Sums over all blocks, where it does not say of a block or a warp."""

    name: str
    blocks: int
    threads: int = 256  # of a block
    registers: int = 32  # of a thread
    shared: int = 0  # bytes of a block, static and dynamic
    read: float = 0  # bytes that blocks ask L2 for
    fresh: float = 0  # of these, each byte once, what this operation did not write itself
    write: float = 0  # bytes
    ffma: float = 0  # FLOP, by unit: TF32 for the other two
    mma: float = 0
    wgmma: float = 0
    instructions: float = 100  # of a warp, once, each waiting for the one before
    loop: float = 0  # of a warp, in all rounds of loops that overlap them
    stages: int = 1  # loads that wait for each other
    fetch: float = 0  # instructions of a warp to bring a stage
    ahead: int = 0  # 0: loads, then work; 1: loads by other warps; n: begun n stages before
    roles: int = 1  # 2: half of the warps bring, half work
    barriers: float = 0  # sums over the block, or what takes as long
    serial: float = 0.0642  # slow operations, each waiting for the one before
    cluster: int = 1  # blocks
    early: bool = False  # starts while the launch before ends (programmatic dependent launch)


def resident(launch, machine):
    """Blocks that a multiprocessor holds: registers come by 256 a warp, shared memory by 128 bytes and
    1 KB for the system."""
    warps = -(-launch.threads // 32)
    of_warp = -(-launch.registers * 32 // 256) * 256
    shared = -(-launch.shared // 128) * 128 + 1024
    fits = min(machine.blocks, machine.threads // (warps * 32), machine.registers // of_warp // warps,
               machine.shared // shared)
    if fits == 0:
        raise ValueError(f"{launch.name}: no multiprocessor holds one of its blocks")
    return fits


def time(launch, machine, cold=0.0, evicted=0.0, alone=False):
    """Microseconds. Shares: `cold` of what is fresh comes from memory, `evicted` of what is written L2
    passes on to memory meanwhile. By itself (`alone`) or in a graph."""
    m = machine
    places = m.places(launch.cluster)
    of_one = -(-launch.blocks // places)  # blocks of the busiest
    waves = of_one / resident(launch, m)
    warps = -(-launch.threads // 32)
    from_memory = launch.fresh * cold
    dirty = min(from_memory, m.l2_holds)  # bytes that wait until L2 has written others back
    fetched = dirty / m.cold + (from_memory - dirty) / m.memory

    # What flows: bytes through all of L2, or through the port of the busiest multiprocessor.
    port = of_one / launch.blocks / (m.port * m.clock)
    asked = max(launch.read / m.l2, launch.read * port, fetched)
    stored = launch.write * max(1 / m.l2_write, port, evicted / m.cold)
    units = max(launch.ffma / (m.ffma * m.ffma_share), launch.mma / m.mma, launch.wgmma / m.wgmma)
    instructions = launch.instructions + (launch.loop + launch.fetch * launch.stages) / launch.roles
    work = max(units * of_one * m.multiprocessors / launch.blocks,
               instructions * warps * of_one / (m.issue * m.clock))

    # What a warp waits for.
    latency = 0.0
    if launch.read > 0:
        latency = m.l2_latency + (m.memory_latency if from_memory > 0 else 0.0)
    chain = launch.instructions * m.cycles / m.clock
    loop = launch.loop * m.loop_cycles / m.clock
    ends = launch.barriers * m.barrier * warps / 8 + launch.serial * m.serial

    if launch.ahead == 0:
        waves = max(1.0, waves)
        flows = asked, max(work, waves * ((launch.stages - 1) * latency + chain + loop)), stored
        total = waves * (latency + ends) + max(flows) + (sum(flows) - max(flows)) / of_one
    else:
        waves = -(-of_one // resident(launch, m))
        asked, work = asked / waves / launch.stages, work / waves / launch.stages
        work = max(work, loop / launch.stages)
        fill = latency + launch.fetch * m.loop_cycles / m.clock + asked
        pace = max(fill, work) if launch.ahead == 1 else max(asked, work, (fill + work) / launch.ahead)
        total = waves * (chain + fill + (launch.stages - 1) * pace + work + ends) + stored
    return total + m.ramp + (0.0 if launch.early else m.gap) + (m.alone if alone else 0.0)


def operation(launches, machine, cold=False):
    """Microseconds of launches as bench_cuda measures them, for it cold or warm."""
    if cold:
        return machine.event + sum(time(launch, machine, 1.0, alone=True) for launch in launches)
    # Again and again on the same data: what L2 does not hold is gone when its turn comes.
    size = sum(launch.fresh + launch.write for launch in launches)
    missing = min(1.0, max(0.0, size / machine.l2_holds - 1))
    return sum(time(launch, machine, missing, missing) for launch in launches)
