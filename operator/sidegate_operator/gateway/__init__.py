"""The gateway: where gates bring their holds and reports to, in every replica of the operator. See docs/gateway.md.

Left out: what a gate does with an answer.
"""
