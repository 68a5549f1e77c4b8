"""Check a kernel template without a GPU: run it in Triton's interpreter, and compile it for every target.

>>> from jitrt.testing import check_problem, compiles
>>> check_problem(problem, MyTemplate())                        # doctest: +SKIP
>>> compiles(problem, MyTemplate(), config, targets=(80, 90))   # doctest: +SKIP
"""

from jitrt.testing.check import check_problem, compiles, disagrees, make_problem, random_operands
from jitrt.testing.interpreter import run_interpreted
from jitrt.testing.plan import plan_interpreted
from jitrt.testing.plugins import check_plugin, check_rule
from jitrt.tune.tolerance import tolerance

__all__ = [
    "check_plugin",
    "check_problem",
    "check_rule",
    "compiles",
    "disagrees",
    "make_problem",
    "plan_interpreted",
    "random_operands",
    "run_interpreted",
    "tolerance",
]
