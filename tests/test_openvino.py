"""Qwen3-ASR on OpenVINO with the tiny model that knows its recordings: exact in every precision, alone and batched.

PyTorch is needed by the last tests only, which compare with transformers: `pytest -m qwen`.
"""

import asyncio
import os
import random
import shutil
import sys
import threading
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest

from test_batcher import until
from tingdao.engines.base import Ask
from tingdao.engines.openvino import engine as openvino
from tingdao.engines.openvino import runtime as openvino_runtime
from tingdao.engines.openvino.weights import convert
from tingdao.engines.qwen import dialogue
from tingdao.engines.qwen.weights import open_checkpoint
from tingdao.errors import EngineFailed, SetupError
from tingdao.settings import QwenSettings
from tingdao.types import Clip
from tiny_qwen import TRAINED, spoken, write_original

SETTINGS = QwenSettings(runtime="openvino", width=8, wait_ms=30, memory_tokens=32_768)
SPOKEN = spoken()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where converted weights are kept."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def open_engine(models):
    @asynccontextmanager
    async def loaded(folder=TRAINED, **settings):
        engine = openvino.load(folder, "tiny", SETTINGS.model_copy(update=settings), models)
        try:
            yield engine
        finally:
            await engine.close()

    return loaded


def inside(engine):
    """The model behind an engine."""
    return engine._batcher._model


def blocks(engine):
    """How many blocks of memory are free."""
    return inside(engine)._decoder._blocks.free


@pytest.mark.parametrize("dtype", ["auto", "int4", "float32"])
def test_recordings_are_exact_batched_in_any_order(open_engine, dtype):
    async def main():
        async with open_engine(dtype=dtype) as engine:
            free, dice = blocks(engine), random.Random(7)
            for _ in range(2):
                order = dice.sample(SPOKEN, len(SPOKEN))
                asks = [Ask(language=dice.choice([None, language])) for _, _, language in order]
                heard = await asyncio.gather(
                    *(engine.recognise(clip, ask) for (clip, _, _), ask in zip(order, asks, strict=True))
                )
                assert [(each.text, each.language, each.ended) for each in heard] == [
                    (text, language, "stop") for _, text, language in order
                ]
            assert (inside(engine)._rows, inside(engine)._decoder.settled) == ({}, [])
            assert blocks(engine) == free

    asyncio.run(main())


def test_the_original_layout_is_exact_too(open_engine, tmp_path):
    async def main():
        async with open_engine(write_original(tmp_path / "original")) as engine:
            for clip, text, language in SPOKEN[::4]:
                heard = await engine.recognise(clip, Ask())
                assert (heard.text, heard.language) == (text, language)

    asyncio.run(main())


def noise(seconds, seed):
    """A clip that is not the same all along."""
    count = int(seconds * 16_000)
    swell = np.abs(np.sin(np.arange(count) / 3000 * (1 + seed)))
    return Clip((np.random.default_rng(seed).normal(0, 0.2, count) * swell).astype(np.float32))


# Speech, and noise of lengths that end anywhere in a window and a chunk.
CLIPS = [clip for clip, _, _ in SPOKEN[:5]] + [noise(s, n) for n, s in enumerate((0.2, 0.9, 3.37, 8.0, 12.5, 35.0))]
ASKS = [Ask(language="en" if number % 2 else None, max_tokens=20 + 5 * number) for number in range(len(CLIPS))]


async def job_of(engine, clip, ask):
    job = engine._job(clip, ask)
    await engine._batcher.run(job)
    return job.tokens, job.ended


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_batched_is_single_token_by_token_whenever_they_come(open_engine, monkeypatch, dtype):
    monkeypatch.setattr(dialogue, "loops", lambda tokens: False)

    async def main():
        dice = random.Random(1)
        async with open_engine(dtype=dtype) as engine:
            # Prompts go through in small pieces, so that newcomers and settled rows mix in every way.
            inside(engine)._piece = 50
            alone = [await job_of(engine, clip, ask) for clip, ask in zip(CLIPS, ASKS, strict=True)]

            async def later(number):
                await asyncio.sleep(dice.random() * 0.2)
                return number, await job_of(engine, CLIPS[number], ASKS[number])

            for number, heard in await asyncio.gather(*map(later, dice.sample(range(len(CLIPS)), len(CLIPS)) * 2)):
                assert heard == alone[number]

    asyncio.run(main())


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_context_that_was_read_is_not_read_again_and_says_the_same(open_engine, dtype):
    names = Ask(context=" ".join(f"Name{number}" for number in range(40)))
    others = Ask(context=f"{names.context} and others", language="en")

    async def main():
        async with open_engine(dtype=dtype) as engine:
            decoder, read = inside(engine)._decoder, []
            following = decoder.next
            decoder.next = lambda x, entering, asked: read.append(len(x)) or following(x, entering, asked)
            free = blocks(engine)

            async def cost(*asks):
                """Tokens that went through the decoder, and what was heard."""
                read.clear()
                clip, _, _ = SPOKEN[0]
                heard = await asyncio.gather(*(job_of(engine, clip, ask) for ask in asks))
                return sum(read), heard

            first, [said] = await cost(names)
            again, heard = await cost(names)
            assert heard == [said]
            known = first - again
            assert known >= 96
            assert known % 32 == 0
            assert await cost(names) == (again, [said])
            assert (await cost(others))[0] <= first + 10 - known  # it begins alike
            decoder.reserve(32_768)  # nothing is known any more
            together, heard = await cost(*[names] * 6)
            if dtype == "float32":  # 8 bits round otherwise where a prompt is cut into other pieces
                assert heard == [said] * 6
            assert together < first + 5 * again + 5 * 256, "all six read it"
            assert blocks(engine) == free

    asyncio.run(main())


def test_streamed_is_whole_and_a_prefix_is_continued(open_engine):
    async def main():
        async with open_engine() as engine:
            for clip, text, language in SPOKEN[:4]:
                for prefix in ("", text[: len(text) // 2]):
                    ask = Ask(language=language, prefix=prefix)
                    partials = [partial async for partial in engine.recognise_stream(clip, ask)]
                    whole = partials[-1].final.text
                    assert whole == text if not prefix else whole.startswith(prefix)
                    assert "".join(partial.delta for partial in partials) == whole
                    assert len(partials) > 2

    asyncio.run(main())


def test_a_cancelled_request_gives_its_memory_back_within_one_step(open_engine, monkeypatch):
    monkeypatch.setattr(dialogue, "loops", lambda tokens: False)

    async def main():
        async with open_engine() as engine:
            model, free, seen, told = inside(engine), blocks(engine), [], threading.Event()
            step = model.step

            def watched():
                seen.append((told.is_set(), len(model._rows)))
                return step()

            monkeypatch.setattr(model, "step", watched)
            # The model never comes to its end by itself.
            logits = model._decoder.logits
            monkeypatch.setattr(model._decoder, "logits", lambda *given: np.eye(1, 2048, 65) + 0 * logits(*given))
            endless = Ask(language="en", max_tokens=4000)

            async def stream():
                async with aclosing(engine.recognise_stream(CLIPS[1], endless)) as partials:
                    async for _ in partials:
                        pass

            tasks = [asyncio.create_task(engine.recognise(CLIPS[0], endless)), asyncio.create_task(stream())]
            await until(lambda: any(rows == 2 for _, rows in seen))
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            told.set()
            before = len(seen)
            await until(lambda: len(seen) >= before + 5)
            assert [rows for is_told, rows in seen if is_told][:5] == [1] * 5
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            await until(lambda: blocks(engine) == free)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_memory_that_runs_out_costs_time_and_nothing_else(open_engine, monkeypatch):
    async def main():
        async with open_engine() as engine:
            model, failures = inside(engine), []
            request = model._decoder._request

            class Small:
                def infer(self, given):
                    if len(model._rows) > 3:
                        failures.append(len(model._rows))
                        raise RuntimeError("could not allocate memory: std::bad_alloc")
                    return request.infer(given)

                def get_output_tensor(self, number):
                    return request.get_output_tensor(number)

            monkeypatch.setattr(model._decoder, "_request", Small())
            heard = await asyncio.gather(*(engine.recognise(clip, Ask()) for clip, _, _ in SPOKEN))
            assert [each.text for each in heard] == [text for _, text, _ in SPOKEN]
            assert failures[0] == 8

    asyncio.run(main())


def test_closing_ends_whoever_waits(open_engine, monkeypatch):
    monkeypatch.setattr(dialogue, "loops", lambda tokens: False)

    async def main():
        async with open_engine() as engine:
            waits = asyncio.create_task(engine.recognise(noise(300, 3), Ask(language="en", max_tokens=4000)))
            await until(lambda: inside(engine)._rows)
            await engine.close()
            with pytest.raises(EngineFailed):
                await waits

    asyncio.run(main())


def test_weights_are_converted_once_and_anew_when_they_change(models, tmp_path, caplog):
    folder = write_original(tmp_path / "mine")
    kept = tmp_path / "kept"

    def load():
        caplog.clear()
        with caplog.at_level("INFO"):
            openvino.open_weights(folder, SETTINGS, kept)
        return "converting weights" in caplog.messages

    assert [load(), load()] == [True, False]
    assert [file.name for file in kept.iterdir()] == ["mine-int8"]
    (folder / "model.safetensors").touch()
    assert [load(), load()] == [True, False]


def test_a_converted_folder_is_used_as_it_is(open_engine, models, tmp_path):
    async def main():
        async with open_engine() as engine:
            pass
        async with open_engine(models / "tiny-qwen3-asr-int8") as engine:
            assert (await engine.recognise(SPOKEN[0][0], Ask())).text == SPOKEN[0][1]

    asyncio.run(main())
    with pytest.raises(SetupError, match=r"was converted to int8, and `.qwen. dtype` asks for int4"):
        openvino.open_weights(
            models / "tiny-qwen3-asr-int8", SETTINGS.model_copy(update={"dtype": "int4"}), tmp_path / "none"
        )


@pytest.mark.parametrize("harm", ["cut short", "without config", "without tokenizer"])
def test_kept_weights_that_were_damaged_are_converted_anew(tmp_path, caplog, harm):
    def load():
        openvino.open_weights(TRAINED, SETTINGS, tmp_path)

    load()
    kept = tmp_path / "tiny-qwen3-asr-int8"
    if harm == "cut short":
        os.truncate(kept / "weights.safetensors", 1_000_000)
    else:
        (kept / {"without config": "config.json", "without tokenizer": "tokenizer.json"}[harm]).unlink()
    load()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "converted weights are damaged"
    ]
    caplog.clear()
    load()
    assert caplog.messages == []


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_folder_that_vanishes_is_served_on(open_engine, models, tmp_path, dtype):
    folder = tmp_path / "mine"

    async def main():
        if dtype == "auto":
            convert(open_checkpoint(TRAINED), folder, "int8", lambda *_: None)
        else:
            shutil.copytree(TRAINED, folder)
        async with open_engine(folder, dtype=dtype) as engine:
            shutil.rmtree(folder)
            heard = await asyncio.gather(*(engine.recognise(clip, Ask()) for clip, _, _ in SPOKEN))
            assert [each.text for each in heard] == [text for _, text, _ in SPOKEN]
        with pytest.raises(SetupError, match="is not a folder"):
            openvino.load(folder, "mine", SETTINGS, models)

    asyncio.run(main())


def test_without_openvino_the_reason_is_said(models, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tingdao.engines.openvino.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SetupError, match=r"pip install 'tingdao\[cpu\]'"):
        openvino.load(TRAINED, "tiny", SETTINGS, models)


@pytest.mark.parametrize(
    ("flags", "slow"), [("flags : fpu avx512_vnni", False), ("flags : avx2 avx_vnni", False), ("flags : avx2", True)]
)
def test_a_processor_without_the_instructions_is_said_to_be_slower(monkeypatch, tmp_path, flags, slow):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(openvino_runtime, "CPUINFO", info)
    assert bool(openvino_runtime.slow_reason()) is slow


def test_slower_is_said_when_a_model_is_loaded(open_engine, monkeypatch, tmp_path, caplog):
    async def main():
        async with open_engine():
            pass

    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(openvino_runtime, "CPUINFO", info)
    for flags in ("avx2", "avx2 avx_vnni"):
        info.write_text(f"flags : {flags}\n")
        asyncio.run(main())
    told = [record.reason for record in caplog.records if record.message == "slower than on other processors"]
    assert told == ["this processor has none of avx512_vnni, avx_vnni"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("Unsupported CPU: no SSE 4.1", r"cannot run tiny .*no SSE 4\.1.*tingdao\[qwen\].*runtime = \"torch\""),
        ("std::bad_alloc", "do not fit into the memory"),
    ],
)
def test_a_machine_that_openvino_cannot_use_is_said(models, monkeypatch, error, says):
    def compile_graph(*_, **__):
        raise RuntimeError(error)

    monkeypatch.setattr("tingdao.engines.openvino.encoder.compile_graph", compile_graph)
    with pytest.raises(SetupError, match=says):
        openvino.load(TRAINED, "tiny", SETTINGS, models)


def test_a_processor_without_bfloat16_is_exact_too(open_engine, monkeypatch):
    monkeypatch.setattr("tingdao.engines.openvino.encoder.has_bfloat16", lambda: False)

    async def main():
        async with open_engine() as engine:
            heard = await asyncio.gather(*(engine.recognise(clip, Ask()) for clip, _, _ in SPOKEN))
            assert [each.text for each in heard] == [text for _, text, _ in SPOKEN]

    asyncio.run(main())


@pytest.mark.qwen
@pytest.mark.parametrize("language", [None, "zh"])
def test_the_same_tokens_as_transformers(open_engine, monkeypatch, language):
    import torch
    from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

    monkeypatch.setattr(dialogue, "loops", lambda tokens: False)
    processor = Qwen3ASRProcessor.from_pretrained(TRAINED)
    reference = Qwen3ASRForConditionalGeneration.from_pretrained(TRAINED, dtype=torch.float32)

    async def main():
        async with open_engine(dtype="float32") as engine:
            asks = [Ask(language=language, context="Names: Ada, 图灵\n", max_tokens=50) for _ in CLIPS]
            ours = await asyncio.gather(*(job_of(engine, clip, ask) for clip, ask in zip(CLIPS, asks, strict=True)))
            for clip, ask, (tokens, ended) in zip(CLIPS, asks, ours, strict=True):
                inputs = processor.apply_transcription_request(clip.samples, language=language, prompt=ask.context)
                with torch.inference_mode():
                    answer = reference.generate(**inputs, max_new_tokens=50, do_sample=False)
                theirs = answer[0, inputs["input_ids"].shape[1] :].tolist()
                assert tokens == (theirs[:-1] if ended == "stop" else theirs)

    asyncio.run(main())


@pytest.mark.qwen
def test_features_are_those_of_transformers(open_engine):
    from transformers import Qwen3ASRFeatureExtractor

    theirs = Qwen3ASRFeatureExtractor(feature_size=128)

    async def main():
        async with open_engine() as engine:
            for clip in CLIPS:
                made = theirs(clip.samples, sampling_rate=16_000, padding="longest")["input_features"][0].numpy()
                ours = inside(engine)._encoder.features(clip.samples)
                assert ours.shape == made.shape
                assert np.abs(ours - made).max() < 1e-4

    asyncio.run(main())
