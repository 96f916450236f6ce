"""`merge`, `quantize`, `bake`, `compress`, `export`: single phases on any checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from agent_forge.cli.options import HomeOption, JsonOption, SetOption, home_path, print_json
from agent_forge.errors import ConfigError

OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist yet.")]


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(merge)
    app.command()(quantize)
    app.command()(bake)
    app.command()(compress)
    app.command()(export)


def merge(
    models: Annotated[list[str], typer.Argument(help="Checkpoint folders, or one YAML file.")],
    out: OutFolder,
    base: Annotated[str | None, typer.Option("--base", help="The common ancestor (for ties and dare).")] = None,
    method: Annotated[str, typer.Option("--method", help="linear, slerp, ties, dare_ties, dare_linear, …")] = "linear",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge checkpoints of one architecture, one tensor at a time."""
    from agent_forge.phases.evomerge.merge_checkpoints import merge_folders, merge_yaml

    if len(models) == 1 and models[0].endswith((".yml", ".yaml")):
        facts = merge_yaml(Path(models[0]), out)
    else:
        facts = merge_folders(
            [Path(model) for model in models],
            out,
            method=method,
            base=Path(base) if base else None,
            **_keyword_values(set_),
        )
    _tell(facts, as_json, f"wrote {out}")


def quantize(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, session or digest.")],
    out: OutFolder,
    data: Annotated[list[str] | None, typer.Option("--data", help="Text for calibration and recovery.")] = None,
    set_: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the body of a model ternary (1.58 bits a weight)."""
    from agent_forge.phases.bitnet.alone import quantize_folder
    from agent_forge.pipeline.resolve import resolve_model

    facts = quantize_folder(resolve_model(model, home_path(home)), out, sources=data or (), **_keyword_values(set_))
    _tell(facts, as_json, f"wrote {out}")


def bake(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, session or digest.")],
    prompt: Annotated[Path, typer.Option("--prompt", help="File with the prompt that goes into the weights.")],
    out: OutFolder,
    questions: Annotated[
        Path | None, typer.Option("--questions", help="File of questions, one a line, that the model is asked.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Ordinary text on which nothing may change.")] = None,
    set_: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bake a prompt into a model: it then does without the prompt what it did with it."""
    from agent_forge.phases.baking.alone import bake_folder
    from agent_forge.pipeline.resolve import resolve_model

    asked = _text_of(questions).splitlines() if questions else []
    told, folder = _text_of(prompt), resolve_model(model, home_path(home))
    facts = bake_folder(folder, out, prompt=told, questions=asked, sources=data or (), **_keyword_values(set_))
    _tell(facts, as_json, f"wrote {out}")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}") from None


def compress(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, session or digest.")],
    out: Annotated[Path, typer.Option("--out", help="The .forge file to write.")],
    max_bytes: Annotated[int | None, typer.Option("--max-bytes", min=1, help="Largest size that is wanted.")] = None,
    min_retention: Annotated[
        float | None, typer.Option("--min-retention", min=0.0, max=1.0, help="Smallest retention that is wanted.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Text to measure on.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make one small file of a model."""
    from agent_forge.phases.compression.alone import compress_folder
    from agent_forge.pipeline.resolve import resolve_model

    if max_bytes is not None and min_retention is not None:
        raise ConfigError("choose one of --max-bytes and --min-retention: each decides the other")
    folder = resolve_model(model, home_path(home))
    facts = compress_folder(folder, out, max_bytes=max_bytes, min_retention=min_retention, sources=data or ())
    _tell(facts, as_json, f"wrote {out}")


def export(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, session or digest.")],
    to: Annotated[str, typer.Option("--to", help="web, onnx-cpu, onnx-web, hf, hf-bitnet or gguf.")],
    out: OutFolder,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model in a format of the neighbours, and say how equal it is."""
    from agent_forge.pipeline.resolve import resolve_model

    # An export copies tensors without looking at them, so the model is loaded once to refuse what is not sound.
    with sound_folder(resolve_model(model, home_path(home))) as folder:
        facts = _exported(folder, out, to, model)
    _tell(facts, as_json, f"wrote {out}")


def _exported(folder: Path, out: Path, to: str, reference: str) -> dict[str, Any]:
    """Facts about the export that ``to`` names; ``reference`` is what the user calls the model."""
    if to == "web":
        from agent_forge.phases.edge.web_export import export_web

        return export_web(folder, out, name=Path(reference).stem)
    if to in ("onnx-cpu", "onnx-web"):
        from agent_forge.model.checkpoint import load_model
        from agent_forge.phases.edge.export_onnx import export_onnx
        from agent_forge.phases.edge.onnx_parity import double_parity

        facts = export_onnx(folder, out, "cpu" if to == "onnx-cpu" else "web")
        return {**facts, **double_parity(*load_model(folder), out)}
    from agent_forge.phases.bitnet.export import TARGETS, export_folder

    if to not in TARGETS:
        raise ConfigError(
            f"unknown export target {to!r}; the targets are web, onnx-cpu, onnx-web, {', '.join(TARGETS)}"
        )
    return export_folder(folder, out, to=to)


@contextmanager
def sound_folder(path: Path) -> Iterator[Path]:
    """A checkpoint folder that loads; that of a `.forge` file is a temporary one, with the belongings of the agent.

    Raises:
        ArtifactCorrupt, HandoffError, ModelNotFound: as `load_reference`.
    """
    from agent_forge.model.checkpoint import save_model
    from agent_forge.pipeline.resolve import load_reference

    network, tokenizer = load_reference(path)
    if path.is_dir():
        yield path
        return
    from agent_forge.phases.compression.attachments import attachments

    with TemporaryDirectory() as folder:
        save_model(network, tokenizer, Path(folder))
        for name, content in attachments(path).items():
            Path(folder, name).write_bytes(content)
        yield Path(folder)


def _keyword_values(settings: list[str] | None) -> dict[str, Any]:
    from agent_forge.config import yaml_value

    values: dict[str, Any] = {}
    for setting in settings or ():
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set takes key=value, and got {setting!r}")
        values[key] = yaml_value(setting, text)
    return values


def _tell(facts: Mapping[str, object], as_json: bool, sentence: str) -> None:
    if as_json:
        print_json(facts)
        return
    typer.echo(sentence)
    for name, value in facts.items():
        if isinstance(value, int | float | str):
            typer.echo(f"  {name}: {value}")
