"""The policy algebra: contributions of rules in, the entries of a policy map out.

Used by the policy service (to build and check), the shim (to finish a mapstate with the identities of its
own node) and the tests. Pure: no I/O, no clock, no generated stubs. The wire form is
`axoneme.lib.policycodec`.
"""
