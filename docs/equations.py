"""Equations of docstrings, which are written to be read in a terminal, as LaTeX.

    Q(s, a) = alpha log sum_{s'} p(s'|s, a) exp((r + V(s')) / alpha)

Only what such lines hold is known: names of letters, functions, sub- and superscripts, small matrices, and words.
"""

from __future__ import annotations

import re

__all__ = ["is_code", "to_latex"]

GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "eta",
    "theta",
    "lambda",
    "mu",
    "nu",
    "pi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "psi",
    "omega",
]
FUNCTIONS = ["log", "exp", "sin", "cos", "tan", "tanh", "max", "min", "inf", "sup"]
ROMAN = ["KL", "tr", "diag", "grad", "opt", "argmax", "argmin", "Flat", "done"]
SYMBOLS = {
    "<=": r"\le ",
    ">=": r"\ge ",
    "->": r"\to ",
    "||": r"\,\|\,",
    "|": r"\mid ",
    "~": r"\sim ",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
}
SHORT_WORDS = {"of", "by", "to", "if", "at", "or", "is", "in", "on", "it", "its"}
TOKEN = re.compile(
    r"[A-Za-z]+(?:_[A-Za-z]{3,})+"  # a name of Python
    r"|[A-Za-z]+-(?:step)|[A-Za-z]+|\d+(?:\.\d+)?(?:e-?\d+)?|<=|>=|->|\|\||[_^]|\s+|."
)
CODE = re.compile(r'"|^\s*(@|def |print\(|import |from )|= cai\.|^\s*model = |^\s*mdp, ', re.M)


def is_code(block: str) -> bool:
    """Whether an indented block of a docstring is Python and no equation."""
    return CODE.search(block) is not None


def to_latex(block: str) -> str:
    """A block of equations, a line each, as one displayed equation."""
    lines = [_line(line) for line in block.strip("\n").splitlines() if line.strip()]
    if len(lines) == 1:
        return lines[0]
    rows = " \\\\[4pt]\n".join(rf"\displaystyle {line}" for line in lines)
    return f"\\begin{{array}}{{l}}\n{rows}\n\\end{{array}}"


def _line(text: str) -> str:
    parts = re.split(r" {3,}", re.sub(r" +(?==)", " ", text.strip()))  # lines are aligned at their equality signs
    return r" \qquad ".join(_matrices(part) for part in parts)


def _matrices(text: str) -> str:
    """Rows in square brackets, separated by semicolons, become matrices."""
    pieces = re.split(r"(\[[^\[\]]*;[^\[\]]*\])", text)
    return "".join(_matrix(piece) if piece.startswith("[") and ";" in piece else _formula(piece) for piece in pieces)


def _matrix(text: str) -> str:
    rows = []
    for row in text[1:-1].split(";"):
        cells = [row.strip()] if re.search(r" [-+] ", row) else row.split()
        rows.append(" & ".join(_formula(cell) for cell in cells))
    return r"\begin{bmatrix}" + r" \\ ".join(rows) + r"\end{bmatrix}"


def _formula(text: str) -> str:
    tokens, made, words = TOKEN.findall(text), [], []
    place = 0

    def close_words() -> None:
        if words:
            before = r"\ " if "".join(made).endswith(" ") else ""
            after = r"\ " if place < len(tokens) and tokens[place - 1].isspace() else ""
            made.append(before + rf"\text{{{' '.join(words)}}}".replace("_", r"\_") + after)
            words.clear()

    while place < len(tokens):
        token = tokens[place]
        if token.isspace():
            made.append(" " if not words else "")
        elif token in "_^":
            script, place = _script(tokens, place + 1)
            made.append(f"{token}{{{script}}}")
        elif _is_word(token):
            words.append(token)
        else:
            close_words()
            made.append(_symbol(token, tokens, place))
        if not token.isspace() and not _is_word(token):
            close_words()
        place += 1
    close_words()
    return re.sub(r"(\\ )?\\text\{proportional to\}(\\ )?", r"\\propto ", "".join(made))


def _script(tokens: list[str], place: int) -> tuple[str, int]:
    """What is raised or lowered, and the place of its last token."""
    if tokens[place] == "{":
        depth, end = 1, place + 1
        while depth:
            depth += {"{": 1, "}": -1}.get(tokens[end], 0)
            end += 1
        return _formula("".join(tokens[place + 1 : end - 1])), end - 1
    made = _symbol(tokens[place], tokens, place)
    if place + 1 < len(tokens) and tokens[place + 1] == "'":
        made, place = made + "'", place + 1
    if place + 2 < len(tokens) and tokens[place + 1] == "_":
        inner, place = _script(tokens, place + 2)
        made += f"_{{{inner}}}"
    return made, place


def _is_word(token: str) -> bool:
    known = token in (*GREEK, *FUNCTIONS, *ROMAN, "sum", "prod", "Haa", "constf")
    long = len(token) > 2 or token in SHORT_WORDS
    return token[0].isalpha() and long and not known


def _symbol(token: str, tokens: list[str], place: int) -> str:
    if token in GREEK:
        return rf"\{token} "
    if token in FUNCTIONS or token in ("sum", "prod"):
        return rf"\{token} "
    if token in ROMAN:
        return rf"\operatorname{{{token}}}"
    if token in ("Qf", "qf", "constf", "Haa"):
        name = {"constf": r"\mathrm{const}"}.get(token, token[0])
        return f"{name}_{{{token[-1] if token != 'Haa' else 'aa'}}}"
    if token == "*" and place and not tokens[place - 1].isspace():
        return "^*"
    if token.isdigit() and place and re.fullmatch(r"[A-Za-z]", tokens[place - 1]):
        return f"_{{{token}}}"
    return SYMBOLS.get(token, token)
