"""No rule is forgotten: each has a test that bears its number."""

import ast
from pathlib import Path

import pytest

# Money comes with the accounts: rule 35, and of rule 36 the steps 402 and 429.
RULES = [number for number in range(1, 39) if number != 35]
HERE = Path(__file__).parent


def rule_tests() -> set[str]:
    trees = [ast.parse(path.read_text("utf-8")) for path in HERE.glob("test_*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("number", RULES)
def test_every_rule_has_a_test(number: int) -> None:
    assert any(name.startswith(f"test_rule_{number:02}_") for name in rule_tests())
