"""What the core is, as data: configuration, command set, registers, function tables. Imports no Amaranth.

Gateware, golden model and SDK all read these modules; nothing here reads them back.
"""
