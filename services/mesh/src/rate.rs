//! How often something may happen. Three kinds, all pure, used wherever a rate is bounded:
//!
//! * [`TokenBucket`] refuses what comes too often: so many at once, then one after another. [`KeyedBuckets`] has one for
//!   each caller.
//! * [`Throttle`] delays updates that come too often, and always delivers the latest.
//! * [`Tally`] counts repeats, so that many of them become one entry of the audit.

mod tally;
mod throttle;
mod token_bucket;

pub use tally::Tally;
pub use throttle::Throttle;
pub use token_bucket::{KeyedBuckets, RateLimit, TokenBucket};
