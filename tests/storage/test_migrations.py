from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from agent_forge.errors import HomeTooNew
from agent_forge.storage import migrations
from agent_forge.storage.home import Home
from agent_forge.storage.tables import Table

FIXTURES = Path(__file__).parent / "fixtures"


def script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def test_head_is_the_newest_file_and_the_steps_form_one_line() -> None:
    revisions = [each.revision for each in script().walk_revisions()]
    assert script().get_heads() == [migrations.HEAD]
    assert sorted(revisions, reverse=True) == revisions
    assert revisions[-1] == "0001"


def test_every_older_schema_migrates_and_keeps_its_rows(tmp_path: Path) -> None:
    fixtures = sorted(FIXTURES.glob("registry_*.sql"))
    older = sorted(each.revision for each in script().walk_revisions())[:-1]
    assert [path.stem.removeprefix("registry_") for path in fixtures] == older
    for fixture in fixtures:
        folder = tmp_path / fixture.stem
        folder.mkdir()
        connection = sqlite3.connect(folder / "registry.db")
        connection.executescript(fixture.read_text())
        connection.close()
        with Home.open(folder) as home:
            (session,) = home.registry.sessions()
            assert (session.name, session.status, session.pinned, session.facts) == ("old", "completed", True, {})
            (phase_run,) = home.registry.phase_runs("old")
            assert phase_run.measured == {"bits_per_byte": 1.25}
            (artifact,) = phase_run.outputs["model"]
            assert home.registry.artifact(artifact.digest).phase == "cognate"
            assert home.registry.attachments(phase_run.id) == {}


def test_the_migrated_schema_is_the_one_of_the_tables(home: Home) -> None:
    with home.registry.database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
        assert migrations.revision(connection) == migrations.HEAD


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    Home.open(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "registry.db")
    connection.execute("UPDATE alembic_version SET version_num = '0099'")
    connection.commit()
    before = list(connection.iterdump())
    with pytest.raises(HomeTooNew, match="0099"):
        Home.open(tmp_path)
    assert list(connection.iterdump()) == before
    connection.close()
