"""Which mutants of the CUDA kernels there are, and the kernels' text with them in it."""

import collections
import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels" / "cuda"
SHADOW = ROOT / "tests/emulator/shadow"

BARRIER = re.compile(
    r"(?<![\w:])(\w+::)*(__syncthreads(_\w+)?\(\)"
    r"|__syncwarp\([^;{}]*\)"
    r"|cp_async_(wait|commit)(_group)?(<[^>]*>)?\([^;{}]*\)"
    r"|\w+\.sync\(\)"
    r"|fence_\w+\(\)"
    r"|(named_|m)?barrier_\w+(<[^>]*>)?\([^;{}]*\)"
    r"|cluster_(arrive|wait)\(\));"
)
PRODUCT = re.compile(r"(?<![\w:])(\w+::)*mma_tf32\([^;{}]*\);")
# Operator -> what stands there instead, and the name of the two in schemata.h.
OPERATORS = {
    "+": ("-", "Add"),
    "-": ("+", "Subtract"),
    "*": ("+", "Multiply"),
    "/": ("*", "Divide"),
    "%": ("/", "Modulo"),
    "<": ("<=", "Less"),
    "<=": ("<", "LessEqual"),
    ">": (">=", "Greater"),
    ">=": (">", "GreaterEqual"),
    "==": ("!=", "Equal"),
    "!=": ("==", "NotEqual"),
    "+=": ("-=", "AddTo"),
    "-=": ("+=", "SubtractFrom"),
    "*=": ("/=", "MultiplyBy"),
    "/=": ("*=", "DivideBy"),
    "&&": ("||", None),
    "||": ("&&", None),
}
# Of two operands: clang-format puts spaces around these, or the end of a line behind them.
OPERATOR = re.compile(
    r"(?<=\s)(" + "|".join(map(re.escape, sorted(OPERATORS, key=len, reverse=True))) + r")(?=\s)"
)


@dataclasses.dataclass
class Mutant:
    id: int  # in schemata.h
    key: str  # by its text, not by its line number, which other edits move
    file: str
    line: int
    kind: str  # "barrier", "product" or "index"
    begin: int  # what it replaces of the file's text, and by what
    end: int
    new: str

    def line_of(self, text):
        """Its line of the file, mutated."""
        start = text.rfind("\n", 0, self.begin) + 1
        stop = text.find("\n", self.end)
        return (text[start : self.begin] + self.new + text[self.end : stop]).strip()


def device_code(text):
    """The text with everything blanked that is no code of a __global__ or __device__ function."""
    code, inside, opened, depth = [], False, False, 0
    for line in text.splitlines(keepends=True):
        bare = re.sub(r"//.*", lambda comment: " " * len(comment.group()), line)
        bare = re.sub(r"__launch_bounds__\([^()]*\)", lambda m: " " * len(m.group()), bare)
        if not inside and ("__global__" in bare or "__device__" in bare):
            inside, opened, depth = True, False, 0
        if not inside or bare.startswith("#") or "static_assert" in bare:
            code.append(re.sub(r"\S", " ", line))
            continue
        code.append(bare)
        depth += bare.count("{") - bare.count("}")
        opened = opened or "{" in bare
        # A declaration ends without a body; a function ends where its braces close.
        if (opened and depth <= 0) or (not opened and bare.rstrip().endswith(";")):
            inside = False
    return "".join(code)


def kernel_files():
    """All but those that the emulator does not compile."""
    files = [*KERNELS.rglob("*.cu"), *KERNELS.rglob("*.cuh")]
    return sorted(file for file in files if "cub" not in file.relative_to(KERNELS).parts
                  and not (SHADOW / file.relative_to(ROOT)).exists())


def mutants_of(path, first_id):
    text = path.read_text()
    code = device_code(text)
    name = path.relative_to(ROOT).as_posix()
    found = [(m.start(), m.end(), kind, ";")
             for kind, left_out in (("barrier", BARRIER), ("product", PRODUCT))
             for m in left_out.finditer(code)]
    found += [(m.start(), m.end(), "index", OPERATORS[m.group()][0])
              for m in OPERATOR.finditer(code)]
    seen = collections.Counter()
    for number, (begin, end, kind, new) in enumerate(sorted(found)):
        start = text.rfind("\n", 0, begin) + 1
        line = text[start : text.find("\n", end)].strip()
        key = f"{name} | {line} | {text[begin:end]}"
        # The how manieth of those that read alike.
        seen[key] += 1
        key += f" #{seen[key] - 1}"
        yield Mutant(first_id + number, key, name, text.count("\n", 0, begin) + 1, kind, begin,
                     end, new)


def all_mutants():
    for rank, path in enumerate(kernel_files()):
        yield from mutants_of(path, 1000 * (rank + 1))


# --- Schemata ------------------------------------------------------------------------------------


def operand(text, at, step, operator):
    """Where the operands of && or || at `at` end, in one direction: before whatever binds less."""
    opening, closing = ("([{", ")]}") if step > 0 else (")]}", "([{")
    depth = 0
    while True:
        at += step
        two = text[at - 1 : at + 1] if step < 0 else text[at : at + 2]
        if text[at] in opening:
            depth += 1
        elif text[at] in closing:
            if depth == 0:
                return at
            depth -= 1
        elif depth == 0:
            if text[at] in ";,?" or (operator == "&&" and two == "||"):
                return at
            if text[at] == ":" and text[at - 1] != ":" and text[at + 1] != ":":
                return at
            if text[at] == "=" and text[at - 1] not in "=!<>" and text[at + 1] != "=":
                return at
            if step < 0 and re.match(r"return\b", text[at - 5 :]) and not text[at - 6].isalnum():
                return at


def with_schemata(text, mutants):
    """The file's text with all of the mutants in it, to be switched on one at a time."""
    # Behind its operator each mutant leaves its number, in characters that occur nowhere else.
    # A call that is left out may hold operators, whose mutants come first and make it longer.
    grown = []
    for mutant in sorted(mutants, key=lambda m: m.begin, reverse=True):
        end = mutant.end + sum(more for begin, more in grown if begin < mutant.end)
        old = text[mutant.begin : end]
        if mutant.kind != "index":
            new = f"::mutants::on({mutant.id}) ? void() : void({old[:-1]});"
        elif OPERATORS[old][1]:
            new = f"{old} ::mutants::{OPERATORS[old][1]}{{{mutant.id}}} {old}"
        else:
            new = f"{old}\1{mutant.id}\2"
        text = text[: mutant.begin] + new + text[end:]
        grown.append((mutant.begin, len(new) - len(old)))
    # && and || evaluate their right side or do not, so the whole expression is written twice.
    while match := re.search("(&&|\\|\\|)\1(\\d+)\2", text):
        begin = operand(text, match.start(), -1, match.group(1)) + 1
        end = operand(text, match.end(), 1, match.group(1))
        other = OPERATORS[match.group(1)][0]
        left, right = text[begin : match.start()], text[match.end() : end]
        text = (f"{text[:begin]} (::mutants::on({match.group(2)}) ? ({left}{other}{right})"
                f" : ({left}{match.group(1)}{right})) {text[end:]}")
    return '#include "tests/mutants/schemata.h"\n' + text
