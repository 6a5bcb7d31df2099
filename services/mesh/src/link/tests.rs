//! Tests of the rim.
