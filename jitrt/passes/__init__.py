"""From the graph a front end made to one that runs fast: see `pipeline.PIPELINE` for the whole way."""

from jitrt.passes.base import Accepts, Judge, Pass, PassContext, Proposal, Verdict, one_anchor
from jitrt.passes.pipeline import PIPELINE, optimize
from jitrt.passes.plan_memory import MemoryPlan, plan_memory
from jitrt.passes.proposal import Match, Rule, judged
from jitrt.passes.report import Decision, Report
from jitrt.passes.storage import root_of, storage_of

__all__ = [
    "PIPELINE",
    "Accepts",
    "Decision",
    "Judge",
    "Match",
    "MemoryPlan",
    "Pass",
    "PassContext",
    "Proposal",
    "Report",
    "Rule",
    "Verdict",
    "judged",
    "one_anchor",
    "optimize",
    "plan_memory",
    "root_of",
    "storage_of",
]
