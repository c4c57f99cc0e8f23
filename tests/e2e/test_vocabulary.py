"""Terms that the embedded model really writes wrongly become right when they are given."""

from __future__ import annotations

import asyncio

import pytest

from conftest import RECORDINGS
from tingdao import app, settings
from tingdao.text.vocabulary import Vocabulary, corrected
from tingdao.types import Options, Term

CASES = {
    "aishell_BAC009S0724W0121.flac": ["中介协会"],
    "damo_asr_example_zh.flac": ["达摩院"],
    "thchs30_masr_test.flac": ["压岁钱", "压岁书"],
    "audioeval_zh_nihao_shijie.flac": ["你好世界"],
}


@pytest.mark.timeout(300)
def test_terms_on_recordings(weights, tmp_path):
    vocabulary = Vocabulary([Term(word) for words in CASES.values() for word in words])

    async def transcribe_all():
        service = app.build(settings.load(state_dir=tmp_path, model="auto", embedded={"path": weights}))
        await service.start()
        try:
            for name, words in CASES.items():
                with (RECORDINGS / name).open("rb") as recording:
                    transcript = await service.transcribe(recording, None, Options())
                after = [corrected(segment, vocabulary) for segment in transcript.segments]
                for word in words:
                    assert word not in transcript.text
                    assert any(word in segment.text for segment in after), transcript.text
                assert [c.written for segment in after for c in segment.corrections] == words
        finally:
            await service.close()

    asyncio.run(transcribe_all())
