"""Looks into the kernel for people: connections, translations, frontends, counters, endpoint histories."""
