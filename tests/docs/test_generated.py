"""What ``make docs`` makes: up to date, and C that packs what the assembler packs."""

import random
import re
import shutil
import subprocess

import pytest
from lepton_npu.spec.commands import COMMANDS, FaultCause, Opcode
from lepton_npu.spec.registers import REGISTERS

from docs import build

HEADERS = build.ROOT / "sdk" / "c"
COMPILERS = {"gcc": ["-std=c11", "-x", "c"], "g++": ["-std=c++11", "-x", "c++"]}


def test_kept_files_are_up_to_date(capsys):
    assert build.main(["--check"]) == 0, capsys.readouterr().err


def test_check_names_a_stale_file(tmp_path):
    for name, text in build.generate().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert build.stale(tmp_path) == []
    (tmp_path / "docs/commands.md").write_text("old")
    (tmp_path / "sdk/c/lepton_npu.h").unlink()
    assert build.stale(tmp_path) == ["docs/commands.md", "sdk/c/lepton_npu.h"]


def test_pages_have_every_name():
    commands, registers = build.generate()["docs/commands.md"], build.generate()["docs/registers.md"]
    for command in COMMANDS.values():
        section = commands.split(f"### {command.name}\n")[1].split("###")[0]
        assert re.findall(r"`(\w+)`", "".join(re.findall(r"^\|[^|]*\|[^|]*\|[^|]*", section, re.M))) == [
            field.name for field in sorted(command.body, key=lambda field: field.offset)
        ]
    for cause in FaultCause:
        assert f"| {cause.value} | {cause.name} | " in commands
    for register in REGISTERS.values():
        section = registers.split(f"### {register.name}\n")[1].split("###")[0]
        assert f"Address 0x{register.address:03X}." in section
        assert all(f" {field.name} |" in section for field in register.fields)


def run_c(compiler: str, body: str, folder) -> list[str]:
    """The lines that a C program with this ``main`` prints."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source, program = folder / "program.c", folder / "program"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "lepton_npu.h"\n#include "lepton_npu_registers.h"\n'
        "static void show(const uint8_t *r) { for (int i = 0; i < LEPTON_RECORD_BYTES; i++) "
        'printf("%02x", r[i]); printf("\\n"); }\n'
        f"int main(void) {{\nuint8_t record[LEPTON_RECORD_BYTES];\n(void)record; (void)show;\n{body}return 0;\n}}\n"
    )
    flags = [*COMPILERS[compiler], "-Wall", "-Wextra", "-Werror", "-I", str(HEADERS)]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
    return subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()


def c_number(value: int) -> str:
    """A C literal; the least values of int32_t and int64_t have none of their own."""
    return f"({value + 1}LL - 1)" if value < 0 else f"{value}ULL"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_c_packs_like_the_assembler(compiler, tmp_path, seed):
    """Each command with the least, the greatest and random values in all its fields."""
    rng = random.Random(seed)
    body, expected = "", []
    for command in COMMANDS.values():
        fields = [field for field in command.fields if field.name != "opcode"]
        for choose in (lambda f: f.low, lambda f: f.high, *[lambda f: rng.randint(f.low, f.high)] * 5):
            values = {field.name: choose(field) for field in fields}
            name = command.name.lower()
            body += f"{{ lepton_{name} c;\n"
            body += "".join(f"c.{field} = {c_number(value)};\n" for field, value in values.items())
            body += f"lepton_pack_{name}(&c, record); show(record); }}\n"
            expected.append(command.pack(**values).hex())
    assert run_c(compiler, body, tmp_path) == expected


def test_c_packs_a_load(tmp_path):
    """A record written out by hand, against both the header and the assembler."""
    words = [0x10, 0x00020001, 0x90ABCDEF, 0x12345678, 0x00030100, 0xFFFF0040, 0xFFFFFFC0] + [0] * 9
    record = b"".join(word.to_bytes(4, "little") for word in words)
    values = {"wait": 1, "post": 2, "address": 0x1234567890ABCDEF, "local": 256, "rows": 3, "words": 64}
    values |= {"local_stride": -1, "stride": -64}
    assert COMMANDS[Opcode.LOAD].pack(**values) == record
    body = "lepton_load c;\n" + "".join(f"c.{name} = {c_number(value)};\n" for name, value in values.items())
    assert run_c("gcc", body + "lepton_pack_load(&c, record); show(record);\n", tmp_path) == [record.hex()]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_c_registers(compiler, tmp_path):
    """Offsets, in both headers, and the masks of the fields."""
    body, expected = "", []
    for register in REGISTERS.values():
        body += f'printf("%x %zx\\n", LEPTON_REG_{register.name}, offsetof(lepton_npu_t, {register.name}));\n'
        expected.append(f"{register.address:x} {register.address:x}")
        for field in register.fields:
            body += f'printf("%x\\n", (unsigned)LEPTON_NPU__{register.name}__{field.name}_bm);\n'
            expected.append(f"{field.mask:x}")
    assert run_c(compiler, body, tmp_path) == expected
