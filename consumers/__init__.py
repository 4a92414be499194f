"""The edges of nametag: where posts come from, and how messages look on the wire."""
