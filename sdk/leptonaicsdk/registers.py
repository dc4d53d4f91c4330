"""The register map, for host programs: ``REGISTERS["CTRL"].address``."""

from lepton_npu.spec.registers import REGISTERS, Register, RegisterField

__all__ = ["REGISTERS", "Register", "RegisterField"]
