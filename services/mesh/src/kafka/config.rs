//! Where Kafka's brokers are, and how to authenticate to them.

use std::{ffi::OsString, fs, path::PathBuf};

use clap::ValueEnum;
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::process::Misuse;

/// The largest pause between two attempts to connect, milliseconds: librdkafka's own of 10 s would add itself to every
/// outage.
const RECONNECT_MS: &str = "500";

/// How to reach Kafka. Without brokers nothing is published: events stay in Central's database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[command(next_help_heading = "Kafka")]
#[group(skip)]
pub struct KafkaConfig {
    /// Addresses of Kafka's brokers; without them readings and events are not published
    #[arg(long, env = "CHARGEMESH_KAFKA", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = crate::client::host_and_port)]
    pub kafka: Vec<String>,
    /// How connections to Kafka are secured
    #[arg(long, env = "CHARGEMESH_KAFKA_SECURITY", value_enum, default_value_t, hide_short_help = true)]
    pub kafka_security: KafkaSecurity,
    /// PEM file with the authorities that sign the brokers' certificates; by default those of the system
    #[arg(long, env = "CHARGEMESH_KAFKA_CA", value_name = "FILE", hide_short_help = true)]
    pub kafka_ca: Option<PathBuf>,
    /// PEM file with the certificate that is shown to the brokers
    #[arg(
        long,
        env = "CHARGEMESH_KAFKA_CERTIFICATE",
        value_name = "FILE",
        requires = "kafka_key",
        hide_short_help = true
    )]
    pub kafka_certificate: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(
        long,
        env = "CHARGEMESH_KAFKA_KEY",
        value_name = "FILE",
        requires = "kafka_certificate",
        hide_short_help = true
    )]
    pub kafka_key: Option<PathBuf>,
    /// User name for SASL
    #[arg(long, env = "CHARGEMESH_KAFKA_USER", value_name = "NAME", hide_short_help = true)]
    pub kafka_user: Option<String>,
    /// File with the password for SASL
    #[arg(long, env = "CHARGEMESH_KAFKA_PASSWORD_FILE", value_name = "FILE", hide_short_help = true)]
    pub kafka_password_file: Option<PathBuf>,
    /// SASL mechanism
    #[arg(long, env = "CHARGEMESH_KAFKA_MECHANISM", value_enum, default_value_t, hide_short_help = true)]
    pub kafka_mechanism: SaslMechanism,
    /// What the names of all topics begin with
    #[arg(long, env = "CHARGEMESH_KAFKA_PREFIX", value_name = "NAME", default_value = "chargemesh",
          value_parser = topic_prefix, hide_short_help = true)]
    pub kafka_prefix: String,
}

/// How a connection to Kafka is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum KafkaSecurity {
    #[default]
    Plaintext,
    Tls,
    SaslPlaintext,
    SaslTls,
}

/// How a user name and a password are proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum SaslMechanism {
    Plain,
    ScramSha256,
    #[default]
    ScramSha512,
}

impl KafkaSecurity {
    fn uses_tls(self) -> bool {
        matches!(self, Self::Tls | Self::SaslTls)
    }

    fn uses_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslTls)
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Tls => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslTls => "sasl_ssl",
        }
    }
}

impl SaslMechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Kafka's own rule for names of topics.
fn topic_prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > 200 || !text.chars().all(allowed) {
        return Err("use 1 to 200 letters, digits, '.', '_' or '-'".to_owned());
    }
    Ok(text.to_owned())
}

impl KafkaConfig {
    pub fn is_set(&self) -> bool {
        !self.kafka.is_empty()
    }

    /// The addresses, as people write them.
    pub fn brokers(&self) -> String {
        self.kafka.join(",")
    }

    /// The flags that give another process these settings; none where Kafka is not set.
    pub fn arguments(&self) -> Vec<OsString> {
        if !self.is_set() {
            return Vec::new();
        }
        let mut arguments: Vec<OsString> = vec!["--kafka".into(), self.brokers().into()];
        let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        add("--kafka-security", name_of(self.kafka_security));
        add("--kafka-mechanism", name_of(self.kafka_mechanism));
        add("--kafka-prefix", self.kafka_prefix.clone().into());
        if let Some(user) = &self.kafka_user {
            add("--kafka-user", user.into());
        }
        let files = [
            ("--kafka-ca", &self.kafka_ca),
            ("--kafka-certificate", &self.kafka_certificate),
            ("--kafka-key", &self.kafka_key),
            ("--kafka-password-file", &self.kafka_password_file),
        ];
        for (flag, file) in files {
            if let Some(file) = file {
                add(flag, file.into());
            }
        }
        arguments
    }

    /// The full name of one of our topics, such as `chargemesh.events`.
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.kafka_prefix)
    }

    /// The part of librdkafka's configuration that producers, consumers and the administration share.
    ///
    /// # Errors
    /// A sentence that names the setting or the file that cannot be used.
    pub fn client(&self, client_id: &str) -> Result<ClientConfig, Misuse> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.brokers())
            .set("client.id", client_id)
            .set("security.protocol", self.kafka_security.protocol())
            .set("reconnect.backoff.max.ms", RECONNECT_MS)
            .set("socket.keepalive.enable", "true");
        if self.kafka_security.uses_tls() {
            self.set_tls(&mut client)?;
        }
        if self.kafka_security.uses_sasl() {
            self.set_sasl(&mut client)?;
        }
        Ok(client)
    }

    fn set_tls(&self, client: &mut ClientConfig) -> Result<(), Misuse> {
        if !cfg!(feature = "kafka-tls") {
            let why = "this program was built without TLS for Kafka: build it with `--features kafka-tls` \
                       (it needs libssl-dev and pkg-config), or use --kafka-security plaintext within a trusted network";
            return Err(Misuse::new(why));
        }
        if let Some(file) = &self.kafka_ca {
            client.set("ssl.ca.pem", read("--kafka-ca", file)?);
        }
        if let (Some(certificate), Some(key)) = (&self.kafka_certificate, &self.kafka_key) {
            client.set("ssl.certificate.pem", read("--kafka-certificate", certificate)?);
            client.set("ssl.key.pem", read("--kafka-key", key)?);
        }
        Ok(())
    }

    fn set_sasl(&self, client: &mut ClientConfig) -> Result<(), Misuse> {
        let (Some(user), Some(file)) = (&self.kafka_user, &self.kafka_password_file) else {
            let why = "--kafka-security with SASL needs --kafka-user and --kafka-password-file";
            return Err(Misuse::new(why));
        };
        if self.kafka_mechanism != SaslMechanism::Plain && !cfg!(feature = "kafka-tls") {
            let why = "this program was built without SCRAM: build it with `--features kafka-tls`, or use \
                       --kafka-mechanism plain";
            return Err(Misuse::new(why));
        }
        let password = read("--kafka-password-file", file)?;
        client
            .set("sasl.mechanism", self.kafka_mechanism.name())
            .set("sasl.username", user)
            .set("sasl.password", password.trim_end_matches(['\r', '\n']));
        Ok(())
    }
}

/// A value as its flag takes it.
fn name_of(value: impl ValueEnum) -> OsString {
    value.to_possible_value().map(|name| name.get_name().to_owned()).unwrap_or_default().into()
}

fn read(flag: &str, file: &PathBuf) -> Result<String, Misuse> {
    fs::read_to_string(file).map_err(|error| Misuse::new(format!("{flag} {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> KafkaConfig {
        KafkaConfig {
            kafka: vec!["broker-1:9092".into(), "broker-2:9092".into()],
            kafka_prefix: "chargemesh".into(),
            ..KafkaConfig::default()
        }
    }

    #[test]
    fn a_client_knows_the_brokers_and_never_waits_long_to_reconnect_spec_5_4() {
        let client = config().client("test").unwrap();
        assert_eq!(client.get("bootstrap.servers"), Some("broker-1:9092,broker-2:9092"));
        assert_eq!(client.get("reconnect.backoff.max.ms"), Some("500"));
        assert_eq!(config().topic("events"), "chargemesh.events");
    }

    #[test]
    fn the_settings_reach_another_process_by_flags() {
        #[derive(Debug, clap::Parser)]
        struct Parsed {
            #[command(flatten)]
            config: KafkaConfig,
        }
        let whole = KafkaConfig {
            kafka_security: KafkaSecurity::SaslTls,
            kafka_user: Some("u".into()),
            kafka_ca: Some("ca.pem".into()),
            kafka_certificate: Some("cert.pem".into()),
            kafka_key: Some("key.pem".into()),
            kafka_password_file: Some("password".into()),
            kafka_mechanism: SaslMechanism::ScramSha256,
            ..config()
        };
        for config in [config(), whole] {
            let words = std::iter::once(OsString::from("x")).chain(config.arguments());
            assert_eq!(<Parsed as clap::Parser>::try_parse_from(words).unwrap().config, config);
        }
        assert!(KafkaConfig::default().arguments().is_empty());
    }

    #[test]
    fn what_is_missing_or_unreadable_is_named() {
        let sasl = KafkaConfig { kafka_security: KafkaSecurity::SaslPlaintext, ..config() };
        assert!(sasl.client("test").unwrap_err().to_string().contains("--kafka-user"));
        let file = Some(PathBuf::from("/no/such/password"));
        let plain = KafkaConfig {
            kafka_user: Some("u".into()),
            kafka_password_file: file,
            kafka_mechanism: SaslMechanism::Plain,
            ..sasl
        };
        let why = plain.client("test").unwrap_err().to_string();
        assert!(why.contains("--kafka-password-file /no/such/password"), "{why}");
    }

    #[test]
    fn a_password_file_may_end_with_a_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "secret\n").unwrap();
        let sasl = KafkaConfig {
            kafka_security: KafkaSecurity::SaslPlaintext,
            kafka_mechanism: SaslMechanism::Plain,
            kafka_user: Some("u".into()),
            kafka_password_file: Some(file),
            ..config()
        };
        assert_eq!(sasl.client("test").unwrap().get("sasl.password"), Some("secret"));
    }

    #[test]
    fn a_prefix_is_a_topics_name() {
        assert_eq!(topic_prefix("charge-mesh.eu_1"), Ok("charge-mesh.eu_1".into()));
        for bad in ["", "a b", "ä", &"a".repeat(201)] {
            assert!(topic_prefix(bad).is_err(), "{bad}");
        }
    }
}
