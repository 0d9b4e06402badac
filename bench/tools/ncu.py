"""What Nsight Compute says of kernels: which counters are asked for, and what is kept of them."""

import csv
import re

# Enough for time, bytes, occupancy and stall reasons in few passes.
OPTIONS = ["--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base",
           *(word for section in ("SpeedOfLight", "MemoryWorkloadAnalysis", "ComputeWorkloadAnalysis",
                                  "WarpStateStats", "Occupancy", "LaunchStats")
             for word in ("--section", section))]

KEPT = {
    "us": ("gpu__time_duration.sum", 1e-3),
    "SM share": ("sm__throughput.avg.pct_of_peak_sustained_elapsed", 0.01),
    "memory share": ("gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed", 0.01),
    "DRAM share": ("gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", 0.01),
    "L2 share": ("lts__throughput.avg.pct_of_peak_sustained_elapsed", 0.01),
    "DRAM GB/s": ("dram__bytes.sum.per_second", 1e-9),
    "instructions a cycle": ("sm__inst_executed.avg.per_cycle_active", 1),
    "warps": ("sm__warps_active.avg.per_cycle_active", 1),
    "occupancy": ("sm__warps_active.avg.pct_of_peak_sustained_active", 0.01),
    "occupancy at most": ("sm__maximum_warps_per_active_cycle_pct", 0.01),
    "registers": ("launch__registers_per_thread", 1),
    "shared KB": ("launch__shared_mem_per_block", 1e-3),
    "blocks": ("launch__grid_size", 1),
    "threads": ("launch__block_size", 1),
    "waves": ("launch__waves_per_multiprocessor", 1),
}
STALL = re.compile(r"smsp__average_warps?_(?:latency_)?issue_stalled_(\w+?)(?:_per_issue_active)?\.ratio")


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def kernels(text):
    """From `ncu --csv --page raw`: for each kernel its counters and what its warps wait for, in
    cycles an issued instruction, the longest first."""
    rows = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    if not rows or "Kernel Name" not in rows[0]:
        return []
    found = []
    for row in rows[1:]:
        fields = dict(zip(rows[0], row))
        if not fields.get("ID"):  # the row of units
            continue
        kernel = {"kernel": fields["Kernel Name"][:120]}
        for name, (counter, scale) in KEPT.items():
            value = number(fields.get(counter, ""))
            if value is not None:
                kernel[name] = float(f"{value * scale:.4g}")
        stalls = {}
        for counter, text_of_value in fields.items():
            reason, value = STALL.fullmatch(counter), number(text_of_value)
            if reason and value:
                stalls[reason.group(1)] = float(f"{value:.3g}")
        kernel["stalls"] = dict(sorted(stalls.items(), key=lambda item: -item[1])[:5])
        found.append(kernel)
    return found


def table(found):
    """A line a kernel, the longest first."""
    lines = []
    for kernel in sorted(found, key=lambda kernel: -kernel.get("us", 0)):
        stalls = ", ".join(f"{name} {value:g}" for name, value in list(kernel["stalls"].items())[:3])
        lines.append(f"{kernel.get('us', 0):7.1f} us  SM {100 * kernel.get('SM share', 0):3.0f} %  "
                     f"memory {100 * kernel.get('memory share', 0):3.0f} %  "
                     f"DRAM {kernel.get('DRAM GB/s', 0):4.0f} GB/s  "
                     f"{kernel.get('registers', 0):3.0f} registers  "
                     f"occupancy {100 * kernel.get('occupancy', 0):3.0f} %  "
                     f"{kernel['kernel'][:60]}  ({stalls})")
    return "\n".join(lines)
