//! The settings of a link as flags and environment variables (SPEC 1.7), the same for every role.

use std::time::Duration;

/// Times and bounds of a link.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Link")]
#[group(skip)]
pub struct Config {
    /// Number of life-sign intervals without traffic after which a peer is considered lost
    #[arg(long, env = "CHARGEMESH_MISSES", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub misses: u32,
    /// Time after which an unacknowledged frame is sent again
    #[arg(long, env = "CHARGEMESH_ACK_TIMEOUT", value_name = "DURATION", default_value = "2s",
          value_parser = crate::duration::parse_some)]
    pub ack_timeout: Duration,
    /// How many times a frame is sent, the first time included, before the link is closed
    #[arg(long, env = "CHARGEMESH_TRIES", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub tries: u32,
    /// Maximum number of frames sent and not yet acknowledged
    #[arg(long, env = "CHARGEMESH_WINDOW", value_name = "N", default_value_t = 32,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=127))]
    pub window: usize,
    /// Maximum number of messages waiting to be acknowledged, including those in the window
    #[arg(long, env = "CHARGEMESH_LINK_QUEUE", value_name = "N", default_value_t = 64,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub link_queue: usize,
    /// Maximum length of a frame's body in bytes; must be the same at both ends of a link
    #[arg(long, env = "CHARGEMESH_MAX_FRAME", value_name = "BYTES", default_value_t = 1 << 20,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(512..=1 << 26))]
    pub max_frame: usize,
    /// Time limit of a link's handshake
    #[arg(long, env = "CHARGEMESH_LINK_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "10s",
          value_parser = crate::duration::parse_some)]
    pub link_handshake_timeout: Duration,
    /// Maximum wait that an overloaded Central can request
    #[arg(long, env = "CHARGEMESH_LONGEST_RETRY", value_name = "DURATION", default_value = "60s",
          value_parser = crate::duration::parse_some)]
    pub longest_retry: Duration,
}

impl Config {
    /// The settings with this life-sign interval, which depends on the profile.
    pub fn wire(&self, life_sign: Duration) -> wire::LinkSettings {
        wire::LinkSettings {
            life_sign,
            misses: self.misses,
            ack_timeout: self.ack_timeout,
            tries: self.tries,
            window: self.window,
            max_frame: self.max_frame,
            handshake_timeout: self.link_handshake_timeout,
            queue: self.link_queue,
            longest_retry: self.longest_retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn told(flags: &[&str]) -> wire::LinkSettings {
        let command = Config::augment_args(clap::Command::new("role"));
        let matches = command.try_get_matches_from([&["role"], flags].concat()).unwrap();
        Config::from_arg_matches(&matches).unwrap().wire(Duration::from_millis(500))
    }

    #[test]
    fn what_nobody_said_is_the_specification_s_number_spec_4_2() {
        assert_eq!(told(&[]), wire::LinkSettings::default());
    }

    #[test]
    fn each_number_of_the_link_is_a_setting_spec_1_7() {
        let flags = "--misses=5 --ack-timeout=1s --tries=7 --window=9 --link-queue=11 --max-frame=4096 \
                     --link-handshake-timeout=3s --longest-retry=20s";
        let expected = wire::LinkSettings {
            life_sign: Duration::from_millis(500),
            misses: 5,
            ack_timeout: Duration::from_secs(1),
            tries: 7,
            window: 9,
            queue: 11,
            max_frame: 4096,
            handshake_timeout: Duration::from_secs(3),
            longest_retry: Duration::from_secs(20),
        };
        assert_eq!(told(&flags.split_whitespace().collect::<Vec<_>>()), expected);
    }
}
