"""What is refused before a file is read."""

import pytest

from agent_forge.config import build_config
from agent_forge.data.sources import expand
from agent_forge.errors import DataError
from agent_forge.pipeline.ingest import check_sources, source_digests


def data(*sources, held):
    return build_config("smoke", sources=sources, held_out=[held]).data


@pytest.mark.parametrize("check", [check_sources, source_digests])
@pytest.mark.parametrize("sources", [["synthetic"], ["stories=synthetic"], ["stories={}"], ["synthetic", "notes={}"]])
def test_held_out_text_under_the_name_of_a_domain_is_refused_at_once(tmp_path, check, sources):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time.")
    named = [source.format(text) for source in sources]
    with pytest.raises(DataError, match="write e.g. stories-eval=PATH"):
        check(data(*named, held=f"stories={text}"))
    assert check(data(*named, held=f"stories-eval={text}")) is None or check is source_digests


def test_two_stars_stand_for_any_depth_of_folders(tmp_path, monkeypatch):
    deep = tmp_path / "src" / "a" / "b"
    deep.mkdir(parents=True)
    for place in (deep, tmp_path / "src"):
        (place / "code.txt").write_text("x = 1")
    monkeypatch.chdir(tmp_path)
    assert [str(source.path) for source in expand("code=src/**/*.txt:2")] == ["src/a/b/code.txt", "src/code.txt"]
