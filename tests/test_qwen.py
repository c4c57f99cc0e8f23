"""The engine with tiny models of Qwen3-ASR: one with random weights, whose noise is the same every time, and the one
in `fixtures` that was trained on the recordings and knows them.

All but the first test need the extra `qwen`: `pytest -m qwen`.
"""

import asyncio
import csv
import gc
import random
import sys
import threading
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from test_batcher import until
from test_qwen_dialogue import byte_tokenizer
from test_qwen_weights import NATIVE, expected, write_config, write_safetensors
from tingdao.engines.base import Ask
from tingdao.engines.qwen import dialogue
from tingdao.engines.qwen.engine import QwenEngine
from tingdao.errors import ContextTooLong, EngineFailed, SetupError, TooLong, UnknownLanguage, UnsupportedOption
from tingdao.settings import QwenSettings
from tingdao.types import Clip

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

TRAINED = ROOT / "tests" / "fixtures" / "tiny-qwen3-asr"
SECONDS = (0.2, 0.9, 2.0, 3.37, 8.0, 12.5, 35.0)
EXACT = QwenSettings(device="cpu", dtype="float32", width=8, wait_ms=50)


def noise(seconds, seed=0):
    """A clip that is not the same all along."""
    count = int(seconds * 16_000)
    swell = np.abs(np.sin(np.arange(count) / 3000 * (1 + seed)))
    return Clip((np.random.default_rng(seed).normal(0, 0.2, count) * swell).astype(np.float32))


CLIPS = [noise(seconds, seed) for seed, seconds in enumerate(SECONDS)]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """One random model in both layouts; of the original, as published, without tokenizer.json."""
    import random_checkpoint

    root = tmp_path_factory.mktemp("qwen")
    byte_tokenizer().save(str(root / "tokenizer.json"))
    for layout in ("native", "original"):
        random_checkpoint.write(root / layout, root, "tiny", layout)
    return root


@pytest.fixture(autouse=True)
def no_loops(request, monkeypatch):
    """Random weights say the same again and again; most tests want all of it."""
    if "looping" not in request.node.name:
        monkeypatch.setattr(dialogue, "loops", lambda tokens: False)


@asynccontextmanager
async def loaded(folder, settings=EXACT):
    engine = QwenEngine.load(folder, "tiny", settings)
    try:
        yield engine
    finally:
        await engine.close()


def inside(engine):
    """The model behind an engine."""
    return engine._batcher._model


def test_without_torch_the_reason_is_said(tmp_path, monkeypatch):
    write_config(tmp_path, NATIVE)
    write_safetensors(tmp_path / "model.safetensors", expected(NATIVE))
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SetupError, match=r"pip install 'tingdao\[qwen\]'"):
        QwenEngine.load(tmp_path, "0.6b", QwenSettings())


@pytest.mark.qwen
@pytest.mark.parametrize("language", [None, "zh"])
def test_the_same_tokens_as_transformers(folders, language):
    import torch
    from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

    processor = Qwen3ASRProcessor.from_pretrained(folders / "native")
    reference = Qwen3ASRForConditionalGeneration.from_pretrained(folders / "native", dtype=torch.float32)

    async def main():
        async with loaded(folders / "native") as engine:
            for clip in CLIPS:
                ask = Ask(language=language, context="Names: Ada, 图灵\n", max_tokens=50)
                job = engine._job(clip, ask)
                await engine._batcher.run(job)
                inputs = processor.apply_transcription_request(clip.samples, language=language, prompt=ask.context)
                prompt = inputs["input_ids"][0].tolist()
                assert len(prompt) == job.prompt_tokens
                assert [token for token in prompt if token != processor.audio_token_id] == job.head + job.tail
                with torch.inference_mode():
                    answer = reference.generate(**inputs, max_new_tokens=50, do_sample=False)
                assert job.tokens == answer[0, len(prompt) :].tolist()

    asyncio.run(main())


@pytest.mark.qwen
def test_both_layouts_answer_the_same(folders):
    async def main():
        heard = []
        for layout in ("native", "original"):
            async with loaded(folders / layout) as engine:
                heard.append(await asyncio.gather(*(engine.recognise(clip, Ask(max_tokens=30)) for clip in CLIPS)))
        assert heard[0] == heard[1]
        assert len({each.text for each in heard[0]}) > len(CLIPS) // 2

    asyncio.run(main())


async def alone(engine, asks):
    return [await engine.recognise(clip, ask) for clip, ask in zip(CLIPS, asks, strict=True)]


ASKS = [Ask(language="en" if number % 2 else None, max_tokens=20 + 7 * number) for number in range(len(CLIPS))]


@pytest.mark.qwen
def test_batched_is_single_in_any_order_and_whenever_they_come(folders):
    async def main():
        dice = random.Random(1)
        async with loaded(folders / "native") as engine:
            # Prompts go through in small pieces, so that newcomers and settled rows mix in every way.
            inside(engine)._piece = 50
            expected = await alone(engine, ASKS)

            async def later(number):
                await asyncio.sleep(dice.random() * 0.2)
                return number, await engine.recognise(CLIPS[number], ASKS[number])

            for _ in range(3):
                order = dice.sample(range(len(CLIPS)), len(CLIPS)) * 2
                for number, heard in await asyncio.gather(*map(later, order)):
                    assert heard == expected[number]
            assert inside(engine)._rows == {}
            assert inside(engine)._decoder._shelves == {}

    asyncio.run(main())


@pytest.mark.qwen
def test_a_context_that_was_read_is_not_read_again_and_says_the_same(folders):
    names = Ask(context=" ".join(f"Name{number}" for number in range(40)), max_tokens=8)

    async def main():
        async with loaded(folders / "native") as engine:
            said = await engine.recognise(CLIPS[0], names)
            decoder, read = inside(engine)._decoder, []
            following = decoder.next
            decoder.next = lambda x, entering, asked: read.append(len(x)) or following(x, entering, asked)
            job = engine._job(CLIPS[0], names)
            for together in (1, 3):
                read.clear()
                heard = await asyncio.gather(*(engine.recognise(CLIPS[0], names) for _ in range(together)))
                assert heard == [said] * together
                assert sum(read) == together * (job.prompt_tokens - len(job.head) + said.usage.completion_tokens - 1)
            decoder._heads = type(decoder._heads)()
            heard = await asyncio.gather(*(engine.recognise(CLIPS[0], names) for _ in range(3)))
            assert heard == [said] * 3
            assert sum(map(len, decoder._heads._known)) == len(job.head)
            for number in range(20):  # the longest unused are forgotten
                await engine.recognise(CLIPS[0], Ask(context=f"{number} {names.context}", max_tokens=1))
            assert sum(map(len, decoder._heads._known)) <= 2048
            assert tuple(job.head) not in decoder._heads._known

    asyncio.run(main())


@pytest.mark.qwen
def test_a_short_clip_does_not_wait_for_a_long_prompt_nor_the_other_way_round(folders):
    async def main():
        async with loaded(folders / "native") as engine:
            model = inside(engine)
            model._piece = 160
            long = engine._job(noise(240), Ask(max_tokens=4))
            model.enter(long)
            model.step()
            for steps in range(1, 15):  # one short clip after the other, all the time
                short = engine._job(noise(1), Ask(max_tokens=4))
                model.enter(short)
                model.step()
                assert len(short.tokens) == 1
                model.leave(short)
                assert model._rows[long].memory.length >= 160 + 80 * steps
            model.leave(long)

    asyncio.run(main())


@pytest.mark.qwen
def test_leftovers_in_fresh_memory_do_no_harm(folders, monkeypatch):
    import torch

    empty, new_empty = torch.empty, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty", lambda *given, **more: empty(*given, **more).fill_(float("nan")))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *given: new_empty(*given).fill_(float("nan")))

    async def main():
        async with loaded(folders / "native") as engine:
            expected = await alone(engine, ASKS)
            assert expected == await asyncio.gather(
                *(engine.recognise(clip, ask) for clip, ask in zip(CLIPS, ASKS, strict=True))
            )

    asyncio.run(main())


@pytest.mark.qwen
def test_streamed_is_whole(folders):
    async def main():
        async with loaded(folders / "native") as engine:
            for ask in (Ask(language="en", max_tokens=40), Ask(language="en", prefix="So far", max_tokens=40)):
                whole = await engine.recognise(CLIPS[3], ask)
                partials = [partial async for partial in engine.recognise_stream(CLIPS[3], ask)]
                assert "".join(partial.delta for partial in partials) == whole.text
                assert partials[-1].final == whole
                assert [partial.final for partial in partials[:-1]] == [None] * (len(partials) - 1)
                assert len(partials) > 5
            assert whole.text.startswith("So far")

    asyncio.run(main())


@pytest.fixture(scope="module")
def spoken():
    """(clip, text, language) of the recordings that the trained tiny model knows."""
    import av

    def samples(file):
        resampler = av.AudioResampler("flt", "mono", 16_000)
        with av.open(str(file)) as container:
            frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        return Clip(np.concatenate([frame.to_ndarray()[0] for frame in frames]))

    with (ROOT / "tests" / "recordings" / "manifest.tsv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["language"] in {"en", "zh"}]
    return [(samples(ROOT / "tests" / "recordings" / row["file"]), row["text"], row["language"]) for row in rows]


@pytest.mark.qwen
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_the_trained_model_is_exact_batched_in_any_order(spoken, dtype):
    async def main():
        async with loaded(TRAINED, EXACT.model_copy(update={"dtype": dtype})) as engine:
            dice = random.Random(7)
            for _ in range(2):
                order = dice.sample(spoken, len(spoken))
                asks = [Ask(language=dice.choice([None, language])) for _, _, language in order]
                heard = await asyncio.gather(
                    *(engine.recognise(clip, ask) for (clip, _, _), ask in zip(order, asks, strict=True))
                )
                assert [(each.text, each.language, each.ended) for each in heard] == [
                    (text, language, "stop") for _, text, language in order
                ]

    asyncio.run(main())


@pytest.mark.qwen
@pytest.mark.parametrize("told", [True, False])
def test_a_prefix_is_continued_whether_the_language_is_told_or_not(spoken, told):
    async def main():
        async with loaded(TRAINED) as engine:
            for clip, text, language in spoken:
                ask = Ask(language=language if told else None, prefix=text[: len(text) // 2])
                partials = [partial async for partial in engine.recognise_stream(clip, ask)]
                assert (partials[-1].final.language, partials[-1].final.ended) == (language, "stop")
                assert partials[-1].final.text.startswith(ask.prefix)
                assert "".join(partial.delta for partial in partials) == partials[-1].final.text

    asyncio.run(main())


@pytest.mark.qwen
def test_usage_is_counted(folders):
    async def main():
        async with loaded(folders / "native") as engine:
            heard = await engine.recognise(noise(2), Ask(max_tokens=7))
            assert heard.usage.completion_tokens == 7
            assert heard.ended == "length"
            job = engine._dialogue.job(noise(2), Ask(), 100)
            assert heard.usage.prompt_tokens == len(job.head) + 26 + len(job.tail)

    asyncio.run(main())


@pytest.mark.qwen
def test_a_looping_answer_is_stopped(folders):
    import torch

    async def main():
        async with loaded(folders / "native") as engine:
            decoder = inside(engine)._decoder
            logits = decoder.logits
            decoder.logits = lambda hidden: logits(hidden).index_fill(1, torch.tensor([65]), 1e9)
            heard = await engine.recognise(noise(30), Ask(language="en"))
            assert (heard.ended, heard.usage.completion_tokens) == ("loop", dialogue.LOOP_TOKENS)

    asyncio.run(main())


@pytest.mark.qwen
@pytest.mark.parametrize("streamed", [False, True])
def test_a_cancelled_request_frees_its_row_within_one_step(folders, streamed):
    async def main():
        async with loaded(folders / "native") as engine:
            model, seen, told = inside(engine), [], threading.Event()
            step = model.step

            def watched():
                seen.append((told.is_set(), len(model._rows)))
                return step()

            model.step = watched

            async def stream():
                async with aclosing(engine.recognise_stream(CLIPS[1], endless)) as partials:
                    async for _ in partials:
                        pass

            endless = Ask(language="en", max_tokens=20_000)
            stays = asyncio.create_task(engine.recognise(CLIPS[2], endless))
            goes = asyncio.create_task(stream() if streamed else engine.recognise(CLIPS[1], endless))
            await until(lambda: any(rows == 2 for _, rows in seen))
            goes.cancel()
            with pytest.raises(asyncio.CancelledError):
                await goes
            told.set()
            before = len(seen)
            await until(lambda: len(seen) >= before + 5)
            after = [rows for is_told, rows in seen if is_told]
            assert after[:5] == [1] * 5
            stays.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stays
            await until(lambda: not model._rows)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.qwen
def test_memory_that_runs_out_costs_time_and_nothing_else(folders):
    import torch

    async def main():
        async with loaded(folders / "native") as engine:
            expected = await alone(engine, ASKS)
            model = inside(engine)
            forward, failures = model._decoder.forward, []

            def small(x, entering):
                if len(model._rows) > 3:
                    failures.append(len(model._rows))
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return forward(x, entering)

            model._decoder.forward = small
            heard = await asyncio.gather(*(engine.recognise(clip, ask) for clip, ask in zip(CLIPS, ASKS, strict=True)))
            assert heard == expected
            assert failures[0] == len(CLIPS)

    asyncio.run(main())


@pytest.mark.qwen
def test_what_cannot_be_done_is_said_before_the_model_is_asked(folders):
    async def main():
        settings = EXACT.model_copy(update={"context_tokens": 20, "memory_tokens": 2048})
        async with loaded(folders / "native", settings) as engine:
            wrong = {
                UnknownLanguage: (noise(1), Ask(language="xx")),
                UnsupportedOption: (noise(1), Ask(words=True)),
                ContextTooLong: (noise(1), Ask(context="x" * 30)),
                TooLong: (noise(100), Ask()),
            }
            for kind, (clip, ask) in wrong.items():
                with pytest.raises(kind):
                    await engine.recognise(clip, ask)

    asyncio.run(main())


@pytest.mark.qwen
def test_close_ends_what_runs(folders):
    async def main():
        engine = QwenEngine.load(folders / "native", "tiny", EXACT)
        tasks = [asyncio.create_task(engine.recognise(clip, Ask(max_tokens=20_000))) for clip in CLIPS[:3]]
        await asyncio.sleep(0.2)
        await asyncio.wait_for(engine.close(), 10)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineFailed] * 3

    asyncio.run(main())


@pytest.mark.qwen
def test_a_thousand_requests_leave_nothing_behind(folders):
    def resident():
        gc.collect()
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmRSS"].split()[0]) / 1024

    async def main():
        async with loaded(folders / "native") as engine:

            async def some(count):
                for begin in range(0, count, 8):
                    await asyncio.gather(
                        *(engine.recognise(noise(1, seed), Ask(max_tokens=3)) for seed in range(begin, begin + 8))
                    )

            await some(200)
            before = resident()
            await some(1000)
            assert resident() - before < 20  # MiB

    asyncio.run(main())


@pytest.mark.qwen
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_other_types_of_numbers_answer_too(folders, dtype):
    async def main():
        async with loaded(folders / "native", EXACT.model_copy(update={"dtype": dtype})) as engine:
            heard = await asyncio.gather(*(engine.recognise(clip, Ask(max_tokens=10)) for clip in CLIPS))
            assert all(each.usage.completion_tokens == 10 for each in heard)

    asyncio.run(main())


@pytest.mark.qwen
def test_a_gpu_that_is_not_there(folders):
    import torch

    with pytest.raises(SetupError, match="There is no GPU 'cuda:63'"):
        QwenEngine.load(folders / "native", "tiny", QwenSettings(device="cuda:63"))
    assert torch.cuda.device_count() < 63


@pytest.mark.qwen
def test_a_tokenizer_that_cannot_be_read(folders, tmp_path):
    for file in (folders / "native").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(SetupError, match="cannot be read"):
        QwenEngine.load(tmp_path, "tiny", EXACT)
