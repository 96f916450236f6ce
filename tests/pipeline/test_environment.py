"""The machine is described from files, and a missing file is no error."""

from agent_forge.pipeline import environment


def test_processor_features_come_from_its_flags():
    info = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_bf16 avx512_bf16\n"
    assert environment.cpu_features(info) == ["AVX2", "AVX-512", "VNNI", "bf16", "AMX bf16"]
    assert environment.cpu_features("Features\t: fp asimd sve bf16\n") == ["NEON", "bf16", "SVE"]
    assert environment.cpu_features("flags : fpu\n") == []
    assert environment.cpu_features("") == []


def test_gpus_are_those_of_the_driver(tmp_path):
    assert environment.gpu_names(tmp_path) == []
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA GeForce GTX 1660\nIRQ: 7\n")
    assert environment.gpu_names(tmp_path) == ["NVIDIA GeForce GTX 1660"]


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert environment.free_disk_bytes(tmp_path / "a" / "b") > 0


def test_the_environment_is_plain_and_complete():
    found = environment.environment()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["libraries"]["torch"] == environment.library_version("torch")
    assert environment.library_version("no-such-library-at-all") is None
