#!/usr/bin/env python3
"""The tables of docs/performance.md, from bench/results/*.json.

    python3 bench/tools/tables.py [--check]

Rewrites what stands between a line `<!-- bench/tools/tables.py: NAME -->` and the next `<!-- end -->`.
Figures that no result holds are "not measured"; what was predicted for them stands beside them.
--check rewrites nothing, and fails where something would change.
"""

import argparse
import json
import re
import statistics
import sys

from source import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results"
NOT_MEASURED = "not measured"

# Shares of the peak, and times as fast as PyTorch run eagerly, that a step on the CPU should reach.
CPU_GOALS = {"demo": (0.55, 3), "paper": (0.75, 2)}

# Other ways of our own than one recorded step.
OURS = {"eager": "launched one by one", "overlapping": "launches that overlap",
        "wgmma": "hidden layers by wgmma", "wgmma-overlapping": "by wgmma, launches that overlap",
        "apart": "hidden layers one operation after the other"}

# Networks side by side, each on a queue of its own, that bench_step times.
AT_ONCE = (2, 4, 8)

# For an H200, before anything was measured on one. Floors are the convolutions' operations at 245
# (TF32 mma.sync) and 66.9 TFLOP/s (FFMA); the rest are estimates. Times in milliseconds.
STEPS = {
    ("demo", "tf32"): {},
    ("demo", "fp32"): {},
    ("paper", "tf32"): {"floor": 0.289, "ours": "≤ 1.1", "eager": "4.5–9", "graph": "2–3.6",
                        "max-autotune": "1.2–2.3"},
    ("paper", "fp32"): {"floor": 1.06},
    ("paper-batch-norm", "tf32"): {"floor": 0.120, "eager": "45", "graph": "12",
                                   "max-autotune": "9"},
    ("paper-batch-norm", "fp32"): {"floor": 0.441},
    ("overlap", "tf32"): {"floor": 0.061},
    ("overlap", "fp32"): {"floor": 0.222},
}
STEP_NAMES = {"demo": "demo (instance norm)", "paper": "paper scale (instance norm)",
              "paper-batch-norm": "paper scale (batch norm in fours, l = 250)",
              "overlap": "overlapping pairs (2 × 129, valid convolutions)"}


def number(value, digits=3):
    """Three digits, without an exponent: 0.0123, 4.56, 1230."""
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e" in text or abs(value) >= 1000 else text


def ms(value, otherwise=NOT_MEASURED):
    return f"{number(value)} ms" if value else otherwise


def percent(share):
    return f"{100 * share:.0f} %"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


# --- Results ------------------------------------------------------------------------------------

def load(pattern, folder=RESULTS):
    """The newest result whose file name fits, with that name; None where there is none."""
    found = [(json.loads(path.read_text()), path.name) for path in sorted(folder.glob(pattern))]
    if not found:
        return None
    result, name = max(found, key=lambda entry: (entry[0].get("date", ""), entry[1]))
    return {**result, "file": name}


def load_each_machine(pattern, folder):
    """The newest result of each machine."""
    newest = {}
    for path in sorted(folder.glob(pattern)):
        result = {**json.loads(path.read_text()), "file": path.name}
        other = newest.setdefault(result.get("machine"), result)
        if (result.get("date", ""), path.name) > (other.get("date", ""), other["file"]):
            newest[result["machine"]] = result
    return [newest[machine] for machine in sorted(newest)]


COUNTERS = ("share", "arena_MB", "peak_memory_MB", "launches", "graph_launches", "allocations",
            "synchronizations")


def step_rows(found, rows=()):
    """What bench_step's JSON says of each step and precision; added to rows, where those are given."""
    by_key = {(row["preset"], row["precision"]): row for row in rows}
    for result in found["benchmarks"]:
        _, step, *more = result["name"].split("/")
        precision, how = more[:2] if more[0] in ("tf32", "fp32") else ("fp32", "")
        if result.get("error_occurred") or (rows and (step, precision) not in by_key):
            continue
        row = by_key.setdefault((step, precision),
                                {"preset": step, "precision": precision, "ours_seconds": []})
        seconds = result["real_time"] * {"us": 1e-6, "ms": 1e-3}[result["time_unit"]]
        if how not in ("", "replayed"):
            row.setdefault(f"ours_{how}_seconds", []).append(seconds)
            if how == "eager":
                row["launches_eager"] = result["launches"]
            continue
        row["ours_seconds"].append(seconds)
        for counter in COUNTERS:
            if counter in result:
                row.setdefault(counter, []).append(result[counter])
    return list(by_key.values())


def milliseconds(row, key):
    times = row.get(f"{key}_seconds") if row else None
    return statistics.median(times) * 1e3 if times else None


def first(row, key):
    value = (row or {}).get(key)
    return statistics.median(value) if isinstance(value, list) and value else value


# --- Tables -------------------------------------------------------------------------------------

def cpu_steps(cpus, _):
    if not cpus:
        return f"A training step: {NOT_MEASURED}."
    return "\n\n".join(steps_of(cpu) for cpu in cpus)


def steps_of(cpu):
    rows = []
    for row in cpu["results"]:
        mine, eager = milliseconds(row, "ours"), milliseconds(row, "pytorch_eager")
        share_goal, ratio_goal = CPU_GOALS.get(row["preset"], (None, None))
        share = first(row, "share") or row.get("share_of_peak", 0)

        def goal(reached, wanted, text):
            if wanted is None:
                return ""
            return text if reached >= wanted else f"**{text}: missed**"

        ratio = eager / mine if eager else None
        rows.append([STEP_NAMES.get(row["preset"], row["preset"]), ms(mine),
                     percent(share), goal(share, share_goal, percent(share_goal or 0)),
                     ms(eager), number(ratio) if ratio else NOT_MEASURED,
                     goal(ratio or 0, ratio_goal, f"{ratio_goal}")])
    heading = (f"`python3 bench/pytorch/compare.py`, commit {cpu['commit']}, {cpu['cores']} cores "
               f"({cpu['machine']}), PyTorch {cpu['pytorch'].split('+')[0]}; every round is in "
               f"`bench/results/{cpu['file']}`.")
    return heading + "\n\n" + table(
        ["step", "ours", "of all cores' peak", "goal", "PyTorch eager", "ratio", "goal"], rows)


def gpu_machine(_, gpu):
    if not gpu:
        return ("No result of a GPU stands in `bench/results` yet: every time below is "
                f"{NOT_MEASURED}.")
    machine, card = gpu["machine"], gpu["machine"]["gpu"]
    clocks = (gpu.get("kernels") or {}).get("clocks", {}).get("clocks.sm")
    lines = [f"{card.get('name', 'A GPU')}, driver {card.get('driver_version', 'unknown')} (CUDA "
             f"{machine['cuda_of_driver']}), {machine['cpu']}, {machine['cores']} cores, "
             f"{machine['system']}; commit {gpu['commit']}, {gpu['date']}, programs "
             f"{gpu.get('programs', 'unknown')}."]
    if clocks:
        lines.append(f"Clock during the kernels: {clocks['min']:.0f} to {clocks['max']:.0f} MHz.")
    lines.append(f"`{gpu['command']}`; everything in `bench/results/{gpu['file']}`.")
    stages = [[stage["name"], stage["status"], f"{stage['seconds']:.0f} s", stage.get("reason", "")]
              for stage in gpu["stages"]]
    return "\n".join(lines) + "\n\n" + table(["stage", "", "", ""], stages)


def gpu_peaks(_, gpu):
    prediction = load("predicted-*.json") or {}
    context = (gpu or {}).get("kernels", {}).get("context", {})
    rows = []
    for name, key, unit, text in (
            ("fp32 fused multiply-adds", "ffma_TFLOP_s", 1, "TFLOP/s"),
            ("TF32, mma.sync m16n8k8", "tf32_mma_TFLOP_s", 1, "TFLOP/s"),
            ("copy in device memory, read and written", "copy_GB_s", 1e-3, "TB/s"),
            ("launches one after the other, each", "launch_us", 1, "µs"),
            ("a launch until the host knows that it is done", "launch_and_wait_us", 1, "µs"),
            ("the same of a recorded step of one launch", "replay_and_wait_us", 1, "µs"),
            ("a launch within a recorded step", "recorded_launch_us", 1, "µs"),
            ("what two events around a kernel that does nothing measure", "between_two_events_us",
             1, "µs")):
        measured = f"{number(float(context[key]) * unit)} {text}" if key in context else NOT_MEASURED
        expected = f"{number(prediction[key] * unit)} {text}" if key in prediction else ""
        rows.append([name, expected, measured])
    return table(["", "predicted, H200", "measured"], rows)


def words_of(label):
    """(what bounds a kernel, which of several it is, the library beside it)"""
    label, _, library = label.partition(", beside ")
    limit, _, kernel = label.partition(", by ")
    return limit, kernel, library


def kernel_rows(gpu, wanted=lambda name: True):
    predicted = (load("predicted-*.json") or {}).get("kernels", {})
    kernels = (gpu or {}).get("kernels", {})
    results, pytorch = kernels.get("results", {}), kernels.get("pytorch", {})
    column = any("library_us" in result for result in results.values())
    names = dict.fromkeys([*predicted, *(key.rsplit("/", 1)[0] for key in results)])
    rows = []
    for name in filter(wanted, names):
        expected = predicted.get(name)
        cold, warm = results.get(f"{name}/cold"), results.get(f"{name}/warm")
        limit, kernel, library = words_of(
            (warm or cold or {}).get("label", expected["limit"] if expected else ""))
        row = [name, limit, f"{number(expected['floor_us'])} µs" if expected else ""]
        if not warm and not cold:
            rows.append(row + [NOT_MEASURED, "", "", "", "", "", ""])
            continue
        for result in (cold, warm):
            row.append(f"{number(result['us'])} µs" if result else NOT_MEASURED)
            row.append(percent(result["share"]) if result else "")
        best = warm or cold
        rate = f"{number(best['TFLOP/s'])} TFLOP/s" if "TFLOP/s" in best and limit != "memory" \
            else f"{number(best['GB/s'])} GB/s"
        row.append(rate + (f", `{kernel}`" if kernel else ""))
        theirs = (warm or {}).get("library_us")
        row.append(f"{number(theirs)} µs, {library}" if theirs else "" if column else NOT_MEASURED)
        theirs = pytorch.get(name)
        row.append(f"{number(theirs)} µs" if theirs else "" if pytorch else NOT_MEASURED)
        rows.append(row)
    return rows


def gpu_kernels(_, gpu):
    return table(["kernel", "bound by", "predicted floor", "cold", "of the floor", "warm",
                  "of the floor", "warm", "a library, warm", "PyTorch, warm"], kernel_rows(gpu))


def variant_rows(gpu, wanted=lambda case: True):
    """Of every case the kernels that could compute it, the fastest first; the chosen one is bold. Where
    none was measured, of the paper's layers what is predicted."""
    predicted = (load("predicted-*.json") or {}).get("variants", {})
    kernels = (gpu or {}).get("kernels", {})
    measured = (gpu or {}).get("variants", {}).get("results", {})
    cases = measured or {case: dict.fromkeys(names) for case, names in predicted.items()
                         if "/paper/" in case and "32 positions" not in case}
    rows = []
    for case, variants in cases.items():
        warm = kernels.get("results", {}).get(f"{case}/warm", {})
        beside = [f"{number(time)} µs" if time else NOT_MEASURED
                  for time in (warm.get("library_us"), kernels.get("pytorch", {}).get(case))]

        def microseconds(name):
            return variants[name]["us"] if variants[name] else predicted[case][name]

        for name in sorted(variants, key=microseconds) if wanted(case) else []:
            chosen = words_of(warm.get("label", ""))[1] == name
            expected = predicted.get(case, {}).get(name)
            found = variants[name] or {}
            difference = found.get("difference")
            rows.append([case, f"**{name}**" if chosen else name,
                         f"{number(expected)} µs" if expected else "",
                         f"{number(found['us'])} µs" if found else NOT_MEASURED, *beside,
                         "" if not found else "not finite" if difference is None
                         else f"{difference:.1g}"])
    return rows


def gpu_variants(_, gpu):
    return table(["case", "kernel", "predicted", "warm", "a library", "PyTorch",
                  "largest difference from the chosen one's"],
                 variant_rows(gpu))


def gpu_rows(gpu):
    return {(row["preset"], row["precision"]): row
            for row in (gpu or {}).get("steps", {}).get("results", [])}


def gpu_steps(_, gpu):
    measured = gpu_rows(gpu)
    rows = []
    for (step, precision), expected in STEPS.items():
        row = measured.get((step, precision))
        share = first(row, "share")
        rows.append([STEP_NAMES[step], precision, ms(expected.get("floor"), ""),
                     f"{expected['ours']} ms" if "ours" in expected else "",
                     ms(milliseconds(row, "ours")), percent(share) if share else "",
                     *(ms(milliseconds(row, f"ours_{how}")) for how in OURS)])
    return table(["step", "", "floor", "predicted", "replayed", "of the units' peak", *OURS.values()],
                 rows)


def gpu_networks(_, gpu):
    measured = gpu_rows(gpu)
    predicted = (load("predicted-*.json") or {}).get("steps_to_come", {})
    rows = []
    for step, precision in STEPS:
        if precision == "fp32":
            continue
        row = measured.get((step, precision))
        alone = milliseconds(row, "ours")
        for networks in AT_ONCE:
            expected = predicted.get(f"{step}/{precision}, {networks} networks in queues, each")
            time = milliseconds(row, f"ours_at_once_{networks}")
            rows.append([STEP_NAMES[step], str(networks), ms(alone), ms(expected, ""), ms(time),
                         number(alone / time) if alone and time else NOT_MEASURED])
    return table(["step, TF32", "networks", "one alone", "each, predicted", "each",
                  "throughput over one after another"], rows)


def gpu_pytorch(_, gpu):
    measured = gpu_rows(gpu)
    rows = []
    modes = ("eager", "graph", "compile", "max-autotune")
    for (step, precision), expected in STEPS.items():
        row = measured.get((step, precision))
        ours = milliseconds(row, "ours")
        times = {mode: milliseconds(row, f"pytorch_{mode}") for mode in modes}
        cells = []
        for mode in modes:
            cells.append(ms(times[mode]))
            if mode != "compile":
                cells.insert(-1, f"{expected[mode]} ms" if mode in expected else "")
        theirs = [time for time in times.values() if time]
        rows.append([STEP_NAMES[step], precision, *cells,
                     number(min(theirs) / ours) if theirs and ours else NOT_MEASURED])
    return table(["step", "", "eager, predicted", "eager", "CUDA graph, predicted", "CUDA graph",
                  "compile", "max-autotune, predicted", "max-autotune",
                  "fastest of these over ours"], rows)


def gpu_host(_, gpu):
    rows = []
    for (step, precision), row in gpu_rows(gpu).items():
        if row.get("ours_seconds"):
            rows.append([STEP_NAMES.get(step, step), precision, number(row.get("launches_eager", 0))]
                        + [number(first(row, key) or 0) for key in
                           ("launches", "graph_launches", "allocations", "synchronizations")]
                        + [f"{number(first(row, key) or 0)} MB"
                           for key in ("arena_MB", "peak_memory_MB")])
    if not rows:
        rows = [["every step", "", *[NOT_MEASURED] * 7]]
    return table(["step", "", "launches, one by one", "launches, replayed", "replays",
                  "allocations", "waits", "arena", "most memory held"], rows)


def off(predicted, measured):
    """Measured, and how far above it the prediction lies."""
    return [number(measured), f"{100 * (predicted / measured - 1):+.0f} %"] if measured \
        else [NOT_MEASURED, ""]


def gpu_model(_, gpu):
    results = (gpu or {}).get("kernels", {}).get("results", {})
    rows = []
    for name, kernel in (load("predicted-*.json") or {}).get("kernels", {}).items():
        row = [name, "<br>".join(kernel.get("launches", []))]
        for how in ("cold", "warm"):
            predicted = kernel.get(f"{how}_us")
            if predicted:
                row += [number(predicted), *off(predicted, results.get(f"{name}/{how}", {}).get("us"))]
        rows.append(row)
    return table(["kernel", "launches", "cold, predicted", "measured", "off", "warm, predicted",
                  "measured", "off"], rows)


def gpu_model_steps(_, gpu):
    measured, prediction = gpu_rows(gpu), load("predicted-*.json") or {}
    rows = []
    for name, predicted in prediction.get("steps", {}).items():
        row = measured.get(tuple(name.split("/")))
        rows.append([name, f"{number(predicted)} ms", *off(predicted, milliseconds(row, "ours"))])
    for name, predicted in prediction.get("steps_to_come", {}).items():
        if "networks in queues" not in name:  # gpu_networks has these
            rows.append([name, f"{number(predicted)} ms", NOT_MEASURED, ""])
    return table(["step", "predicted", "measured, ms", "off"], rows)


# What the ladder asks of a step: (step, precision), its name in the predictions, the goal in ms.
GOALS = ((("paper", "tf32"), "paper/tf32", 0.8), (("paper", "fp32"), "paper/fp32", 2.2),
         (("paper-batch-norm", "tf32"), "paper-batch-norm/tf32", 0.6),
         (("overlap", "tf32"), "overlap/tf32", 0.4), (("demo", "tf32"), "demo/tf32", 0.1),
         (None, "probes of paper/tf32", 2.5), (None, "map of paper/tf32", 0.8))
FIGURE_1 = {"paper/tf32": 1e5, "probes of paper/tf32": 5e3, "map of paper/tf32": 1e5}  # of a network


def gpu_goals(_, gpu):
    """The fastest of what is predicted of each step, by what is compiled now, beside the goal."""
    measured = gpu_rows(gpu)
    to_come = (load("predicted-*.json") or {}).get("steps_to_come", {})

    def best(step):
        return min(((time, name.partition(", ")[2]) for name, time in to_come.items()
                    if name.startswith(step + ",") and "networks in queues" not in name),
                   default=(None, ""))

    rows = []
    for key, step, goal in GOALS:
        time, how = best(step)
        before = milliseconds(measured.get(key), "ours") if key else None
        rows.append([step, f"{goal} ms", ms(before), ms(time), how, NOT_MEASURED])
    times = {step: best(step)[0] for step in FIGURE_1}
    if all(times.values()):
        minutes = 2 * sum(count * times[step] for step, count in FIGURE_1.items()) / 60e3
        rows.append(["Figure 1, two networks whole", "5 min", "", f"{number(minutes)} min",
                     "of the above", NOT_MEASURED])
    four, alone = (to_come.get(f"paper/tf32, {how}") for how in (
        "4 networks in queues, each", "layers in a row, mma.sync, launches that overlap"))
    if four and alone:
        rows.append(["paper/tf32, four networks at once", "1.5 times as many", "",
                     f"{number(alone / four)} times", "mma.sync, in queues", NOT_MEASURED])
    return table(["step", "goal", "as measured at first", "predicted", "by", "measured now"], rows)


def gpu_to_come(_, gpu):
    results = (gpu or {}).get("kernels", {}).get("results", {})
    rows = []
    for name, kernel in (load("predicted-*.json") or {}).get("to_come", {}).items():
        measured = results.get(f"{name}/warm", results.get(name, {})).get("us")
        rows.append([name, kernel["launches"][0].partition(": ")[2], f"{number(kernel['warm_us'])} µs",
                     *off(kernel["warm_us"], measured)])
    return table(["candidate", "its launch, or the first", "predicted", "measured, µs", "off"], rows)


TABLES = {"cpu-steps": cpu_steps, "gpu-machine": gpu_machine, "gpu-peaks": gpu_peaks,
          "gpu-kernels": gpu_kernels, "gpu-variants": gpu_variants, "gpu-steps": gpu_steps,
          "gpu-networks": gpu_networks, "gpu-pytorch": gpu_pytorch, "gpu-host": gpu_host,
          "gpu-model": gpu_model, "gpu-model-steps": gpu_model_steps,
          "gpu-goals": gpu_goals, "gpu-to-come": gpu_to_come}


# --- For the end of ./run gpu -------------------------------------------------------------------

def plain(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in rows)


def counts(name):
    """Whether a case is the paper's, by tensor cores where they can compute it."""
    return not re.search(r"demo|batch-norm|overlap|/fp32$|/512x", name)


def kernel_summary(gpu):
    head = [["kernel", "bound by", "predicted", "cold", "", "warm", "", "", "a library", "PyTorch"]]
    return plain(head + kernel_rows(gpu, counts))


def variant_summary(gpu):
    head = [["case", "kernel", "predicted", "warm", "a library", "PyTorch", "difference"]]
    return plain(head + variant_rows(gpu, counts))


def step_summary(gpu):
    rows = []
    for row in gpu["steps"]["results"]:
        cells = [row["preset"], row["precision"]]
        for label, key in (("ours", "ours"), *((how, f"ours_{how}") for how in OURS if how != "eager"),
                           *((f"{n} at once", f"ours_at_once_{n}") for n in AT_ONCE),
                           ("one by one", "ours_eager"), ("eager", "pytorch_eager"),
                           ("graph", "pytorch_graph"), ("compile", "pytorch_compile"),
                           ("max-autotune", "pytorch_max-autotune")):
            time = ms(milliseconds(row, key), "")
            cells.append(time and f"{label} {time}")
        rows.append(cells)
    return plain(rows) if rows else NOT_MEASURED


# --- The document -------------------------------------------------------------------------------

def rewrite(text, results=RESULTS):
    """The document with its tables as the results say."""
    cpus, gpu = load_each_machine("cpu-*.json", results), load("gpu-*.json", results)

    def replace(match):
        name = match.group(1)
        if name not in TABLES:
            raise SystemExit(f"tables.py: there is no table {name}; there are {', '.join(TABLES)}")
        return f"<!-- bench/tools/tables.py: {name} -->\n{TABLES[name](cpus, gpu)}\n<!-- end -->"

    return re.sub(r"<!-- bench/tools/tables\.py: (\S+) -->\n(?:.*?\n)??<!-- end -->", replace, text,
                  flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether they are up to date")
    arguments = parser.parse_args()
    before = DOCUMENT.read_text()
    after = rewrite(before)
    if arguments.check and after != before:
        sys.exit("docs/performance.md is not what bench/results says; python3 bench/tools/tables.py "
                 "rewrites it")
    if not arguments.check and after != before:
        DOCUMENT.write_text(after)


if __name__ == "__main__":
    main()
