"""The plan: a built model as one safetensors file. Imports numpy and safetensors, nothing heavier."""
