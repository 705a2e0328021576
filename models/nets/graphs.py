"""ONNX graphs put side by side in one."""

from collections.abc import Mapping
from typing import Any


def side_by_side(graphs: Mapping[str, Any]) -> Any:
    """The ONNX models as one, every name with its model's key and a dot before it; the number of rows, `n`, is theirs
    in common, all other dynamic sizes are each one's own (the runtime reuses buffers by the names of sizes)."""
    from onnx import compose

    whole: Any = None
    for key, model in graphs.items():
        prefixed = compose.add_prefix(model, f"{key}.")
        prefixed.ir_version = 8
        del prefixed.graph.value_info[:]
        for value in (*prefixed.graph.input, *prefixed.graph.output):
            for size in value.type.tensor_type.shape.dim:
                if size.dim_param and size.dim_param != "n":
                    size.dim_param = f"{key}.{size.dim_param.removeprefix(f'{key}.')}"
        whole = prefixed if whole is None else compose.merge_models(whole, prefixed, io_map=[])
    return whole
