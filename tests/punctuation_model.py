"""A tiny CT-Transformer: the inputs, outputs and files of FunASR's, with a rule inside in place of a network."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOKENS = ["<blank>", "了", "吗", "但", "们", "hello", "我", "你", "去", "<unk>"]
MARKS = ["<unk>", "_", ",", "。", "?", "、"]


def write(folder: Path, *, config: str = "config.yaml", name: str = "model_quant.onnx", inputs: int = 2) -> Path:
    """A folder whose model sets 。 after 了 unless 吗 follows, ？ after 吗, and ， before 但 and after hello."""
    own = np.zeros((len(TOKENS), len(MARKS)), np.float32)
    following = np.zeros_like(own)
    own[:, MARKS.index("_")] = 1
    own[TOKENS.index("了"), MARKS.index("。")] = 5
    own[TOKENS.index("吗"), MARKS.index("?")] = 20
    own[TOKENS.index("hello"), MARKS.index(",")] = 3
    following[TOKENS.index("吗"), MARKS.index("_")] = 10
    following[TOKENS.index("但"), MARKS.index(",")] = 8
    constants = {
        "own": own,
        "following": following,
        "one": np.array([1]),
        "far": np.array([2**31]),
        "last": np.array([1]),
        "blank": np.zeros((1, 1), np.int32),
        "none": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["own", "text"], ["from_own"]),
        helper.make_node("Slice", ["text", "one", "far", "last"], ["rest"]),
        helper.make_node("Concat", ["rest", "blank"], ["next"], axis=1),
        helper.make_node("Gather", ["following", "next"], ["from_next"]),
        helper.make_node("Add", ["from_own", "from_next"], ["sum"]),
        helper.make_node("Cast", ["text_lengths"], ["length"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["length", "none"], ["nothing"]),
        helper.make_node("Add", ["sum", "nothing"], ["logits"]),
    ]
    ports = [("text", [1, "n"]), ("text_lengths", [1]), ("vad_mask", [1])][:inputs]
    graph = helper.make_graph(
        nodes,
        "tiny_ct_transformer",
        [helper.make_tensor_value_info(port, TensorProto.INT32, shape) for port, shape in ports],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "n", len(MARKS)])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(model.SerializeToString())
    (folder / "tokens.json").write_text(json.dumps(TOKENS), encoding="utf-8")
    marks = "".join(f"- '{mark}'\n" for mark in MARKS)
    text = (
        "model_conf:\n  punc_list:\n" + marks.replace("- ", "  - ")
        if config == "config.yaml"
        else f"punc_list:\n{marks}"
    )
    (folder / config).write_text(text, encoding="utf-8")
    return folder
