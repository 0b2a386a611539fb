"""Who may do what: values and pure functions, no I/O, no clock. The engine answers, everything else carries the answer."""
