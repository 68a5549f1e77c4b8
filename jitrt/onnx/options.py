"""ONNX Runtime's options, as far as they mean something here: settings of its own threads, arenas and logs are taken
and have nothing to act on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from jitrt.errors import OptionError


class GraphOptimizationLevel(enum.IntEnum):
    """How much ONNX Runtime rewrites a graph. jitrt always runs all of its passes; `without=` leaves rules out."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """Whether ONNX Runtime runs branches side by side. jitrt decides that by measuring."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


@dataclass(slots=True)
class SessionOptions:
    """`onnxruntime.SessionOptions`: every attribute is there, and one that does not exist is an AttributeError.

    What acts: `add_free_dimension_override_by_name` fixes a dynamic dim, and the configuration entry
    "session.disable_cpu_ep_fallback" = "1" makes a session without a GPU an error.
    """

    graph_optimization_level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL
    execution_mode: ExecutionMode = ExecutionMode.ORT_SEQUENTIAL
    execution_order: int = 0
    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    enable_profiling: bool = False
    profile_file_prefix: str = "onnxruntime_profile_"
    optimized_model_filepath: str = ""
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    use_deterministic_compute: bool = False
    use_per_session_threads: bool = True
    free_dimensions: dict[str, int] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)

    def add_free_dimension_override_by_name(self, dim_name: str, dim_value: int) -> None:
        """Fix every dynamic dim of this name."""
        self.free_dimensions[dim_name] = int(dim_value)

    def add_session_config_entry(self, config_key: str, config_value: str) -> None:
        self.entries[config_key] = str(config_value)

    def get_session_config_entry(self, config_key: str) -> str:
        """Raises OptionError for an entry that was not added."""
        if config_key not in self.entries:
            raise OptionError(f"there is no session configuration entry {config_key!r}; add it first")
        return self.entries[config_key]

    def register_custom_ops_library(self, library_path: str) -> None:
        """Raises OptionError: operators of ONNX Runtime's own binary interface cannot be run."""
        raise OptionError(
            f"{library_path} holds kernels for ONNX Runtime, which jitrt cannot load; declare the operator with "
            "@jitrt.plugin(..., onnx=(domain, name)), or leave it to the model's function body"
        )

    @property
    def unmet(self) -> list[str]:
        """What is asked for and not done, in words."""
        found = []
        if self.enable_profiling:
            found.append("enable_profiling (session.profile(feed) times every layer)")
        if self.optimized_model_filepath:
            found.append("optimized_model_filepath (jitrt build makes a plan file)")
        return found


@dataclass(slots=True)
class RunOptions:
    """`onnxruntime.RunOptions`. Nothing in it changes what a run computes."""

    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    only_execute_path_to_fetches: bool = False
    terminate: bool = False
    entries: dict[str, str] = field(default_factory=dict)

    def add_run_config_entry(self, config_key: str, config_value: str) -> None:
        self.entries[config_key] = str(config_value)

    def get_run_config_entry(self, config_key: str) -> Any:
        return self.entries[config_key]
