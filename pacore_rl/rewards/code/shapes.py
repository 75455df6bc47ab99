"""Tests as the data sets write them, made into a ``TestSuite``.

    ours, Kattis     tests: [{input, output}], fn_name or entry_point, checker, checker_flags, checker_program
    HumanEval, MBPP  tests: [{check}] with entry_point, [{assertion}] with test_setup
    APPS, TACO       input_output (or the keys themselves): {inputs, outputs, fn_name}, as JSON
    CodeContests     public_tests, private_tests, generated_tests: {input: [...], output: [...]}; time_limit
    LiveCodeBench    public_test_cases, private_test_cases (base64 of zlib of a pickled text), metadata.func_name
    DeepCoder        tests as JSON text
    PRIME            verification_info: {test_cases: [{type, input, output, fn_name}]}, as a Python literal

Nothing is evaluated: texts are parsed as JSON or literals, and the one pickle may hold nothing but a text.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import logging
import math
import pickle
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, cast

from pacore_rl.rewards.code.checkers import choose_checker
from pacore_rl.rewards.code.suite import CheckerProgram, Language, SuiteKind, TestCase, TestSuite

Record = Mapping[str, Any]

TEST_KEYS = frozenset(
    "tests input_output inputs outputs public_tests private_tests generated_tests public_test_cases private_test_cases "
    "verification_info".split()
)
KEYS = TEST_KEYS | frozenset(
    "fn_name entry_point checker checker_flags checker_program test_setup challenge_tests time_limit "
    "time_limit_seconds memory_limit memory_limit_mib memory_limit_bytes kind solutions starter_code".split()
)
"""Keys of records that are read here (or are not for a policy's eyes), and so become no tags of the problem."""
MAX_UNPACKED_BYTES = 256 << 20
_TOLERANCE = re.compile(r"float(_absolute|_relative)?_tolerance\s+([0-9.eE+-]+)")
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\.?\s*")
_UNITS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
}
_logger = logging.getLogger(__name__)


def suite_of_record(record: Record) -> TestSuite | None:
    """The tests of a record in any of the forms above; None where it has none of their keys.

    Raises ``ValueError`` for tests that cannot be used: what was found, and what must hold.
    """
    if not any(record.get(key) for key in TEST_KEYS):
        return None
    fn_name = _fn_name(record)
    rows = list(_rows(record))
    fn_name = fn_name or next((str(row["fn_name"]) for row in rows if row.get("fn_name")), "")
    if not rows:
        raise ValueError("the record has no tests; give at least one, or remove the record.")
    kind = _kind(rows, record, fn_name)
    fn_name = fn_name if kind != "check" or fn_name else _asserted_function(rows)
    tests = tuple(_test_case(row, kind, number) for number, row in enumerate(rows, start=1))
    program = _checker_program(record)
    return TestSuite(
        kind=kind,
        tests=tests,
        fn_name=fn_name if kind != "stdin" else "",
        checker=_checker(record, tests) if kind == "stdin" and program is None else "wcmp",
        checker_program=program,
        setup=_setup(record, rows) if kind == "check" else "",
        time_limit_seconds=_seconds(record),
        memory_limit_mib=_mebibytes(record),
    )


def _rows(record: Record) -> Iterator[Record]:
    """Every test as a mapping with ``input`` and ``output`` (or ``check``, ``assertion``)."""
    if record.get("verification_info"):
        info = record["verification_info"]
        info = _literal(info) if isinstance(info, str) else info
        yield from _listed(info.get("test_cases") or info, "verification_info")
    for key in ("tests", "input_output"):
        if record.get(key):
            given: Any = record[key]
            yield from _listed(_json(given, key) if isinstance(given, str) else given, key)
    if record.get("inputs"):
        yield from _columns(record, "the record", "inputs", "outputs")
    for key in ("public_tests", "private_tests", "generated_tests"):
        if record.get(key):
            yield from _columns(record[key], key, "input", "output")
    for key in ("public_test_cases", "private_test_cases"):
        if record.get(key):
            yield from _listed(_unpack(record[key], key), key)


def _listed(given: Any, key: str) -> Iterator[Record]:
    if isinstance(given, Mapping):
        yield from _columns(given, key, "inputs", "outputs")
    elif isinstance(given, Sequence) and all(isinstance(row, Mapping) for row in given):
        yield from cast(Sequence[Record], given)
    else:
        raise ValueError(f"`{key}` must be a list of tests with `input` and `output`, found {str(given)[:60]!r}.")


def _columns(given: object, key: str, inputs: str, outputs: str) -> Iterator[Record]:
    if not isinstance(given, Mapping):
        raise ValueError(f"`{key}` must be {{{inputs}: [...], {outputs}: [...]}}, found {str(given)[:60]!r}.")
    if inputs not in given:
        inputs, outputs = inputs.rstrip("s"), outputs.rstrip("s")
    left, right = given.get(inputs) or [], given.get(outputs) or []
    if len(left) != len(right):
        raise ValueError(f"{len(left)} inputs and {len(right)} outputs; each test needs one of both.")
    for test_input, output in zip(left, right, strict=True):
        yield {"input": test_input, "output": output, "fn_name": given.get("fn_name"), "is_column": True}


def _kind(rows: Sequence[Record], record: Record, fn_name: str) -> SuiteKind:
    if any("check" in row or "assertion" in row for row in rows):
        return "check"
    kinds = {str(row.get("testtype") or row.get("type") or "") for row in rows}
    if kinds & {"functional", "function_call", "call_based"} or (fn_name and kinds <= {""}):
        if not fn_name:
            raise ValueError("function-call tests need `fn_name`, the name of the function; add it to the record.")
        return "function"
    given = str(record.get("kind") or "stdin")
    if given not in ("stdin", "function"):
        raise ValueError(f"tests of the unknown kind {given!r}; the kinds are 'stdin' and 'function' (with `fn_name`).")
    if given == "function":
        raise ValueError("a record of kind 'function' needs `fn_name`, the name of the function; add it.")
    return "stdin"


def _test_case(row: Record, kind: SuiteKind, number: int) -> TestCase:
    if kind == "check":
        source = row.get("check") or row.get("assertion")
        if not isinstance(source, str) or not source.strip():
            raise ValueError(
                f"test {number} has neither `check` nor `assertion`; all tests of a record are of one kind."
            )
        return TestCase(input=source, output="")
    given, expected = row.get("input"), row.get("output")
    if given is None or expected is None:
        missing = "input" if given is None else "output"
        raise ValueError(f"test {number} has no `{missing}`; a program's output needs something to be compared with.")
    if kind == "function":
        return TestCase(input=_arguments(given, number), output=_expected(expected, is_column="is_column" in row))
    return TestCase(input=_text(given), output=_text(expected))


def _text(value: object) -> str:
    """Standard input or output; some records hold its lines."""
    if isinstance(value, list):
        return "\n".join(map(str, value)) + "\n"
    return value if isinstance(value, str) else str(value)


def _arguments(value: object, number: int) -> str:
    """A JSON list. A text is a list of JSON values, one a line (LiveCodeBench)."""
    try:
        if isinstance(value, str):
            value = [json.loads(line) for line in value.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"test {number}: the arguments are not JSON, one a line ({error}).") from error
    if not isinstance(value, list):
        raise ValueError(f"test {number}: the arguments must be a list, found {str(value)[:60]!r}.")
    return json.dumps(value, ensure_ascii=False)


def _expected(value: object, *, is_column: bool) -> str:
    """A JSON value; APPS wraps each result in a list of its own."""
    if isinstance(value, str) and not is_column:
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass  # a text that is the result itself
    elif is_column and isinstance(value, list) and len(value) == 1:
        value = value[0]
    return json.dumps(value, ensure_ascii=False)


def _fn_name(record: Record) -> str:
    metadata: Any = record.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = _json(metadata, "metadata")
    given: Any = record.get("input_output")
    if isinstance(given, str) and given.strip():
        given = _json(given, "input_output")
    nested = given.get("fn_name") if isinstance(given, Mapping) else None
    found: Any = record.get("fn_name") or record.get("entry_point") or nested or metadata.get("func_name") or ""
    if not isinstance(found, str) or (found and not found.isidentifier()):
        raise ValueError(f"`fn_name` must be the name of a function, found {str(found)[:60]!r}.")
    return found


def _asserted_function(rows: Sequence[Record]) -> str:
    """The function that every assertion calls; one of Python's own only where there is no other."""
    called: list[list[str]] = []
    for row in rows:
        try:
            tree = ast.parse(str(row.get("assertion") or row.get("check")))
        except SyntaxError as error:
            raise ValueError(f"an assertion is not Python ({error}).") from error
        calls = [
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        called.append(calls)
    import builtins

    common = [name for name in called[0] if all(name in calls for calls in called)]
    for name in sorted(common, key=lambda name: hasattr(builtins, name)):  # a task may redefine one of Python's own
        return name
    raise ValueError("no function is called by every assertion; give `fn_name`.")


def _setup(record: Record, rows: Sequence[Record]) -> str:
    """What a check may use: MBPP's `test_setup`, and what HumanEval's prompts define before the function."""
    if any("check" in row for row in rows):
        return str(record.get("problem") or "")
    return str(record.get("test_setup") or "")


def _checker_program(record: Record) -> CheckerProgram | None:
    given: Any = record.get("checker_program")
    if not given:
        return None
    fields: Any = {"source": given} if isinstance(given, str) else given
    source, language = fields.get("source"), fields.get("language", "cpp" if "#include" in str(given) else "python")
    if not isinstance(source, str) or language not in ("python", "cpp"):
        raise ValueError("`checker_program` must be a program's text, or {language: python or cpp, source}.")
    return CheckerProgram(language=cast(Language, language), source=source)


def _checker(record: Record, tests: Sequence[TestCase]) -> str:
    given: Any = record.get("checker")
    if given in (None, "", "auto"):
        chosen = choose_checker(test.output for test in tests)
        _logger.info("%s: checker %s, chosen from its outputs", record.get("id", "a problem"), chosen)
        return chosen
    if given == "default" and "checker_flags" in record:  # Kattis's: words in any case, numbers within a tolerance
        flags = str(record["checker_flags"] or "")
        tolerances = _TOLERANCE.findall(flags)
        if not tolerances:
            return "wcmp" if "case_sensitive" in flags else "caseless"
        kind, tolerance = tolerances[-1]
        return f"tokens{kind.replace('_', ' ')} {tolerance}"
    if str(given).startswith("custom"):
        raise ValueError(f"the checker is {given!r}, but the record has no `checker_program`; add it, or leave it out.")
    return str(given)


def _seconds(record: Record) -> float | None:
    given: Any = record.get("time_limit_seconds") or record.get("time_limit")
    if isinstance(given, Mapping):
        given = float(given.get("seconds") or 0) + float(given.get("nanos") or 0) / 1e9
    if isinstance(given, str):
        found = _DURATION.fullmatch(given)
        if found is None or found[2].lower() not in _UNITS:
            raise ValueError(f"the time limit must be in seconds or milliseconds, found {given[:60]!r}.")
        given = float(found[1]) * _UNITS[found[2].lower()]
    if given is None:
        return None
    if not isinstance(given, (int, float)) or not 0 <= given < math.inf:
        raise ValueError(f"the time limit must be a number of seconds, found {str(given)[:60]!r}.")
    return float(given) or None


def _mebibytes(record: Record) -> int | None:
    if record.get("memory_limit_mib"):
        return int(record["memory_limit_mib"])
    if record.get("memory_limit_bytes"):
        return max(16, int(record["memory_limit_bytes"]) >> 20)
    return None


def _unpack(given: Any, key: str) -> Any:
    """LiveCodeBench's tests: JSON, or base64 of zlib of a pickled JSON text."""
    if not isinstance(given, str):
        return given
    if given.lstrip().startswith(("[", "{")):
        return _json(given, key)
    try:
        packed = zlib.decompressobj()
        pickled = packed.decompress(base64.b64decode(given, validate=True), MAX_UNPACKED_BYTES)
        text = _OnlyText(io.BytesIO(pickled)).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"`{key}` is neither JSON nor a packed text of tests ({error}).") from error
    if packed.unconsumed_tail or not isinstance(text, (str, bytes)):
        raise ValueError(f"`{key}` unpacks to more than {MAX_UNPACKED_BYTES} bytes, or to something that is no text.")
    return _json(text, key)


class _OnlyText(pickle.Unpickler):
    """Unpickles plain values; a pickle that names any class or function is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}, and may hold a text only")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside of it")


def _json(text: str | bytes, key: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"`{key}` is not JSON ({error}).") from error


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"`verification_info` is neither JSON nor a Python literal ({error}).") from error
