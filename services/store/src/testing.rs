//! A throw-away PostgreSQL and databases of their own for tests.
