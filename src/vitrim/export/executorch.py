"""The route executorch: a .pte program for ExecuTorch's small runtime, on phones and other devices without torch.

https://docs.pytorch.org/executorch. XNNPACK computes what it can (matrix products, softmax, GELU). ExecuTorch's own
kernels, which are compiled into its runtime, compute the rest. The graph is rewritten in two ways:

- Attention becomes two products and a softmax, which XNNPACK takes as a whole. torch's decomposition also guards
  against rows that are masked completely, which XNNPACK does not take.
- The open dimension of a view becomes -1, since XNNPACK takes no symbolic sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..quiet import quiet
from .route import Route, Runner

MAX_BATCH = 32  # memory is planned for this many images; a runner splits larger batches
ENTRY = "forward"
aten = torch.ops.aten


class ExecuTorch(Route):
    """One file for all batch sizes up to MAX_BATCH."""

    name = "executorch"
    suffix = ".pte"
    extra = "executorch"
    modules = ("executorch",)

    def write(self, model: nn.Module, x_BCHW: Tensor, path: Path) -> None:
        with quiet(), torch.no_grad():
            batch = Dim("batch", min=1, max=MAX_BATCH)
            program = torch.export.export(model, (x_BCHW,), dynamic_shapes=({0: batch},), strict=False)
            lowered = _lower(_rewrite(program))
        path.write_bytes(lowered.buffer)

    def load(self, path: Path) -> Runner:
        with quiet():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime
        if portable_lib._threadpool_get_thread_count() != torch.get_num_threads():
            portable_lib._unsafe_reset_threadpool(torch.get_num_threads())
        method: Any = Runtime.get().load_program(path).load_method(ENTRY)
        largest = method.metadata.input_tensor_meta(0).sizes()[0]

        def run(x_BCHW: Tensor) -> Tensor:
            return torch.cat([method.execute([part.contiguous()])[0] for part in torch.split(x_BCHW, largest)])

        return run


def _rewrite(program: ExportedProgram) -> ExportedProgram:
    """Rewrite attention and views so that XNNPACK takes them."""
    table: dict[Any, Callable[..., Any]] = {aten.scaled_dot_product_attention.default: _attention}
    program = program.run_decompositions(table)
    for node in program.graph.nodes:
        if node.target in (aten.view.default, aten.reshape.default):
            source, sizes = node.args
            still_open = [i for i, size in enumerate(sizes) if not isinstance(size, int)]
            if len(still_open) == 1 and -1 not in sizes:
                node.args = (source, [-1 if i in still_open else size for i, size in enumerate(sizes)])
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _lower(program: ExportedProgram) -> Any:
    """Lower the program for the runtime; ValueError, naming them, for operations without a kernel."""
    from executorch.backends.transforms.remove_clone_ops import RemoveCloneOpsTransform
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from executorch.runtime import Runtime

    # This check refuses all but torch's core operations. What matters is what the runtime has, which is checked below.
    config = EdgeCompileConfig(_check_ir_validity=False)
    edge = to_edge_transform_and_lower(
        program,
        transform_passes=[RemoveCloneOpsTransform()],  # XNNPACK fails on a copy at the end of a partition
        partitioner=[XnnpackPartitioner()],
        compile_config=config,
    )
    lowered = edge.to_executorch()
    needed = {
        f"{op.name}.{op.overload}" if op.overload else op.name
        for plan in lowered.executorch_program.execution_plan
        for op in plan.operators
    }
    absent = sorted(needed - set(Runtime.get().operator_registry.operator_names))
    if absent:
        raise ValueError(
            f"ExecuTorch's runtime has no kernel for {', '.join(absent)}, which the model or its method needs: choose "
            "another method, other settings or another route."
        )
    return lowered


def _attention(
    q_BHND: Tensor,
    k_BHMD: Tensor,
    v_BHMD: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute softmax(q k^T + bias) v on [B * H, N, D], as XNNPACK's products have three dimensions."""
    rows_may_see_nothing = causal
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=q_BHND.dtype).masked_fill(~bias, -torch.inf)
        rows_may_see_nothing = True
    if rows_may_see_nothing or enable_gqa:
        mixed_BHND: Tensor = aten._scaled_dot_product_attention_math(
            q_BHND, k_BHMD, v_BHMD, bias, dropout, causal, scale=scale, enable_gqa=enable_gqa
        )[0]
        return mixed_BHND
    B, H, N, D = q_BHND.shape
    M = k_BHMD.shape[2]
    q = (q_BHND * (D**-0.5 if scale is None else scale)).reshape(B * H, N, D)
    k, v = (x_BHMD.reshape(B * H, M, x_BHMD.shape[3]) for x_BHMD in (k_BHMD, v_BHMD))
    logits = torch.bmm(q, k.transpose(1, 2))
    if bias is not None:
        logits = (logits.view(B, H, N, M) + bias).view(B * H, N, M)
    return torch.bmm(logits.softmax(dim=-1), v).view(B, H, N, v.shape[2])


ROUTE = ExecuTorch()
