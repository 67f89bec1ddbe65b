"""The paper's claims: predictions, the effects that test them, verdicts, tables and figures."""
