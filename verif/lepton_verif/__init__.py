"""Verification of the Lepton NPU: golden model and testbenches. Imports of the gateware: `lepton_npu.spec` only."""
