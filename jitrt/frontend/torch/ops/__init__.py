"""Importers of aten operators, one module a family; every module here is found by `registry.importers`."""
