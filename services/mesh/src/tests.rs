//! The stacks against each other, with an authority of their own.
