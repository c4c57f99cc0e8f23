"""Runs one implementation over recordings and writes down what it did: prompt ids, logits, greedy tokens.

    python benchmarks/parity/record.py official FOLDER OUT.npz    where qwen-asr 0.0.6 is installed; original layout
    python benchmarks/parity/record.py ours     FOLDER OUT.npz    where Tingdao's extra `qwen` is; either layout
    python benchmarks/parity/record.py ours     FOLDER OUT.npz --together    all recordings in one batch

A folder with a forced aligner is given the recordings' own texts, and its record holds the steps in place of tokens.

`compare.py` compares two such files. Everything runs in float32 on the CPU, and an answer's end is not obeyed, so that
every recording gives the same number of tokens.

The official encoder keeps its attention within windows of 8 s only with flash attention; with the others it forgets
the mask that it has the code for, and clips over 8 s are heard differently. `official` gives it that mask, as flash
attention, vLLM and transformers have it; `--unwindowed` leaves it as shipped.
"""

from __future__ import annotations

import argparse
import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

# (recording, how much of it in seconds, forced language, context)
CASES = [
    ("azure_whatstheweatherlike", None, None, ""),
    ("hsk_hsk1-0166", None, "zh", ""),
    ("ljspeech_LJ002-0020", None, "en", ""),
    ("jfk", None, None, "Kennedy, Washington\n\n1961 年就职演说"),
    ("damo_asr_example_zh", None, "zh", "阿里巴巴"),
    ("sr_english", 1.0, None, ""),
]
ALIGNED = [
    *("jfk", "librispeech_2412-153948-0000", "librivox_ss_0870", "thchs30_masr_test", "damo_asr_example_zh"),
    *("aishell_BAC009S0724W0121", "hsk_hsk3-0039", "azure_whatstheweatherlike", "cards_001", "leopard_de"),
]
"""Recordings for aligners; jfk and librispeech are longer than the encoder's window."""
NAMES = {"en": "English", "zh": "Chinese", "de": "German"}
Record = dict[str, np.ndarray]


def load(file: Path, seconds: float | None) -> np.ndarray:
    """The beginning of a recording, 16 kHz mono float32."""
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(str(file)) as container:
        parts = [piece.to_ndarray()[0] for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate(parts)[: None if seconds is None else int(seconds * 16_000)]


def keep_windows(tower: Any) -> None:  # noqa: ANN401  the official encoder
    """Let the official encoder attend within its windows, whichever attention it uses."""
    from qwen_asr.core.transformers_backend import modeling_qwen3_asr as modeling

    attend = modeling.Qwen3ASRAudioAttention.forward

    def within(self: Any, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, **more: Any) -> Any:  # noqa: ANN401  as the original
        more["attention_mask"] = tower._prepare_attention_mask(hidden_states, cu_seqlens)  # noqa: SLF001  what it forgets
        return attend(self, hidden_states, cu_seqlens, **more)

    modeling.Qwen3ASRAudioAttention.forward = within


def official(folder: Path, clips: list[np.ndarray], count: int, *, windowed: bool) -> list[Record]:
    """What qwen-asr does with each clip on its own."""
    from qwen_asr import Qwen3ASRModel

    model = Qwen3ASRModel.from_pretrained(str(folder), dtype=torch.float32, device_map="cpu")
    thinker = model.model.thinker
    if windowed:
        keep_windows(thinker.audio_tower)
    records = []
    for (_, _, language, context), clip in zip(CASES, clips, strict=True):
        prompt = model._build_text_prompt(context, language and NAMES[language])  # noqa: SLF001  its transcribe uses it
        inputs = model.processor(text=[prompt], audio=[clip], return_tensors="pt", padding=True)
        ids = inputs["input_ids"]
        answer = thinker.generate(
            **inputs.to(torch.float32),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        records.append(
            {
                "ids": ids[0].numpy(),
                "tokens": answer.sequences[0, ids.shape[1] :].numpy(),
                "logits": torch.cat(answer.logits).numpy(),
            }
        )
    return records


def ours(folder: Path, clips: list[np.ndarray], count: int, *, together: bool) -> list[Record]:
    """What Tingdao's engine does with each clip on its own, or with all in one batch."""
    from tingdao.engines.base import Ask
    from tingdao.engines.qwen import dialogue
    from tingdao.engines.qwen.decoder import Decoder
    from tingdao.engines.qwen.encoder import Encoder
    from tingdao.engines.qwen.engine import read_tokenizer
    from tingdao.engines.qwen.model import QwenModel
    from tingdao.engines.qwen.weights import open_checkpoint
    from tingdao.types import Clip

    dialogue.loops = lambda _: False  # random weights do loop
    checkpoint = open_checkpoint(folder)
    cpu = torch.device("cpu")
    decoder = Decoder(checkpoint, cpu, torch.float32)
    model = QwenModel(Encoder(checkpoint, cpu, torch.float32), decoder)
    dialogue = dialogue.Dialogue(read_tokenizer(folder))
    dialogue.ends = frozenset()
    seen: list[torch.Tensor] = []

    def logits(hidden: torch.Tensor, wrapped: Any) -> torch.Tensor:  # noqa: ANN401  a bound method
        seen.append(wrapped(hidden))
        return seen[-1]

    decoder.logits = partial(logits, wrapped=decoder.logits)
    jobs = [
        dialogue.job(Clip(clip), Ask(language=language, context=context, max_tokens=count), 4096)
        for (_, _, language, context), clip in zip(CASES, clips, strict=True)
    ]
    rows: dict[Any, list[np.ndarray]] = {job: [] for job in jobs}
    for batch in [jobs] if together else [[job] for job in jobs]:
        for job in batch:
            model.enter(job)
        left = set(batch)
        while left:
            moved = model.step()
            for job, row in zip(moved, seen.pop() if moved else [], strict=True):
                rows[job].append(row.numpy())
                if job.ended:
                    model.leave(job)
                    left.remove(job)
    pad = checkpoint.config["audio_token_id"]
    return [
        {
            "ids": np.array([*job.head, *[pad] * dialogue.audio_tokens(job.frames), *job.tail]),
            "tokens": np.array(job.tokens),
            "logits": np.stack(rows[job]),
        }
        for job in jobs
    ]


def official_aligner(
    folder: Path, clips: list[np.ndarray], said: list[tuple[str, str]], *, windowed: bool
) -> list[Record]:
    """What qwen-asr's aligner does with each clip on its own. said: text and language of each."""
    from qwen_asr import Qwen3ForcedAligner

    aligner = Qwen3ForcedAligner.from_pretrained(str(folder), dtype=torch.float32, device_map="cpu")
    thinker = aligner.model.thinker
    if windowed:
        keep_windows(thinker.audio_tower)
    records: list[Record] = []
    forward = thinker.forward

    def watched(**inputs: Any) -> Any:  # noqa: ANN401  as the original
        output, ids = forward(**inputs), inputs["input_ids"]
        logits = output.logits[ids == aligner.timestamp_token_id]
        records.append({"ids": ids[0].numpy(), "tokens": logits.argmax(-1).numpy(), "logits": logits.numpy()})
        return output

    thinker.forward = watched
    for clip, (text, language) in zip(clips, said, strict=True):
        aligner.align((clip, 16_000), text, NAMES[language])
    return records


def our_aligner(folder: Path, clips: list[np.ndarray], said: list[tuple[str, str]], *, together: bool) -> list[Record]:
    """What Tingdao's aligner does with each clip on its own, or with as many in one pass as it would take."""
    from tingdao.engines.aligner.model import AlignerModel
    from tingdao.engines.aligner.prompt import Prompter
    from tingdao.engines.aligner.words import split
    from tingdao.engines.qwen.engine import read_tokenizer
    from tingdao.engines.qwen.weights import open_checkpoint

    prompter = Prompter(read_tokenizer(folder))
    model = AlignerModel(open_checkpoint(folder, "aligner"), prompter, torch.device("cpu"), torch.float32)
    jobs = [prompter.job(clip, split(*known)) for clip, known in zip(clips, said, strict=True)]
    rows: dict[Any, np.ndarray] = {}
    seen: list[torch.Tensor] = []
    model._model.score.register_forward_hook(lambda *passed: seen.append(passed[-1]))  # noqa: SLF001  it shows steps only
    for batch in [jobs] if together else [[job] for job in jobs]:
        for job in batch:
            model.enter(job)
        left = len(batch)
        while left:
            done = model.step()
            left -= len(done)
            for job, logits in zip(done, seen.pop().split([2 * job.words for job in done]), strict=True):
                rows[job] = logits.numpy()
                model.leave(job)
    return [{"ids": np.array(job.ids), "tokens": np.array(job.steps), "logits": rows[job]} for job in jobs]


def is_aligner(folder: Path) -> bool:
    """Whether a folder, in either layout, holds a forced aligner."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "classify_num" in config.get("thinker_config", {}) or "ForTokenClassification" in config["architectures"][0]


def texts(audio: Path) -> list[tuple[str, str]]:
    """Text and language of the recordings for aligners."""
    with (audio / "manifest.tsv").open(encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file, delimiter="\t")}
    return [(rows[f"{name}.flac"]["text"], rows[f"{name}.flac"]["language"]) for name in ALIGNED]


def main() -> None:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("who", choices=["official", "ours"])
    line.add_argument("folder", type=Path)
    line.add_argument("out", type=Path)
    here = Path(__file__).parent
    line.add_argument("--audio", type=Path, default=here.parent.parent / "tests" / "recordings")
    line.add_argument("--tokens", type=int, default=100)
    line.add_argument("--together", action="store_true")
    line.add_argument("--unwindowed", action="store_true")
    given = line.parse_args()
    aligner = is_aligner(given.folder)
    cases = [(name, None) for name in ALIGNED] if aligner else [(name, seconds) for name, seconds, *_ in CASES]
    clips = [load(given.audio / f"{name}.flac", seconds) for name, seconds in cases]
    if aligner and given.who == "official":
        records = official_aligner(given.folder, clips, texts(given.audio), windowed=not given.unwindowed)
    elif aligner:
        records = our_aligner(given.folder, clips, texts(given.audio), together=given.together)
    elif given.who == "official":
        records = official(given.folder, clips, given.tokens, windowed=not given.unwindowed)
    else:
        records = ours(given.folder, clips, given.tokens, together=given.together)
    arrays = {
        f"{name}/{key}": value
        for (name, _), record in zip(cases, records, strict=True)
        for key, value in record.items()
    }
    np.savez(given.out, **arrays)


if __name__ == "__main__":
    main()
