//! `chargemesh events`: what happened, as Central publishes it on Kafka (SPEC 5.3).

use clap::{Args, Subcommand};
use mesh::kafka::Consumed;
use serde_json::{Map, Value, json};

use super::{
    api_message::{money, wh},
    topics::TopicArgs,
};
use crate::output::{Output, escaped};

/// What all types begin with.
const PREFIX: &str = "chargemesh.";

/// Read what happened: changes of charging points, sessions and keys, and tickets, from Kafka
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chargemesh events tail --kafka 127.0.0.1:9092
  chargemesh events tail --from 2h --type ticket.issued --json
  chargemesh events tail --from beginning --no-follow --charging-point CP-01")]
pub(crate) struct EventsArgs {
    #[command(subcommand)]
    what: EventsCommand,
}

#[derive(Debug, Subcommand)]
enum EventsCommand {
    /// Each event as it happens; --json prints CloudEvents
    Tail {
        /// Only events of this type: charging-point.state-changed, session.changed, ticket.issued or key.changed
        #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
        kind: Option<String>,
        #[command(flatten)]
        topic: Box<TopicArgs>,
        #[command(flatten)]
        output: Output,
    },
}

fn kind(text: &str) -> Result<String, String> {
    let kinds = ["charging-point.state-changed", "session.changed", "ticket.issued", "key.changed"];
    let name = text.strip_prefix(PREFIX).unwrap_or(text);
    if kinds.contains(&name) {
        Ok(format!("{PREFIX}{name}"))
    } else {
        Err(format!("no type; use {}", kinds.join(", ")))
    }
}

impl EventsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let EventsCommand::Tail { kind, topic, output } = self.what;
        let mut events = topic.open("events").await?;
        let wanted = |event: &Consumed| kind.as_deref().is_none_or(|kind| event.header("ce_type") == Some(kind));
        while let Some(event) = events.next(wanted).await? {
            let event = cloud_event(&event);
            output.sentence(&line(&event), &event)?;
        }
        Ok(())
    }
}

/// The JSON format of CloudEvents, with where it stands on the topic.
fn cloud_event(event: &Consumed) -> Value {
    let attributes = event.headers.iter().filter_map(|(name, value)| Some((name.strip_prefix("ce_")?, value)));
    let mut json: Map<String, Value> = attributes.map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let data = serde_json::from_slice(&event.payload);
    json.insert("data".into(), data.unwrap_or_else(|_| json!(String::from_utf8_lossy(&event.payload))));
    json.insert("partition".into(), json!(event.partition));
    json.insert("offset".into(), json!(event.offset));
    Value::Object(json)
}

/// One event for people.
fn line(event: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let kind = text(&event["type"]);
    let kind = kind.strip_prefix(PREFIX).unwrap_or(&kind).to_owned();
    let mut words = vec![text(&event["time"]), text(&event["subject"]), kind];
    words.extend(said(&event["data"]));
    words.retain(|word| !word.is_empty());
    escaped(&words.join("  "))
}

fn said(data: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let number = |value: &Value| text(value).parse::<u64>().unwrap_or_default();
    let name = |value: &Value, prefix: &str| super::api_message::name(&text(value), prefix);
    if let Some(ticket) = data.get("ticket") {
        let amount = text(&ticket["amountMinor"]).parse().unwrap_or_default();
        let energy = wh(number(&ticket["energyWh"]));
        return vec![text(&ticket["sessionId"]), energy, money(amount, &text(&ticket["currency"]))];
    }
    if let Some(session) = data.get("session") {
        return vec![text(&session["id"]), name(&session["state"], "SESSION_STATE_"), text(&session["driverId"])];
    }
    if data.get("keyNo").is_some() {
        return vec![text(&data["holder"]), format!("key {}", text(&data["keyNo"])), text(&data["state"])];
    }
    let causes = data["causes"].as_array().into_iter().flatten().map(|cause| name(cause, "CAUSE_"));
    let causes: Vec<String> = causes.collect();
    vec![name(&data["state"], "CHARGING_POINT_STATE_"), causes.join(", ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumed(kind: &str, data: &Value) -> Consumed {
        let headers =
            [("ce_type", kind), ("ce_subject", "CP-1"), ("ce_time", "2019-03-01T06:20:00Z"), ("ce_id", "e-1")];
        Consumed {
            key: "CP-1".into(),
            partition: 2,
            offset: 9,
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            payload: data.to_string().into_bytes(),
            ..Consumed::default()
        }
    }

    #[test]
    fn an_event_is_one_line_for_people_and_a_cloud_event_for_programs_spec_5_3() {
        let ticket =
            json!({ "ticket": { "sessionId": "s-1", "energyWh": "5000", "amountMinor": "198", "currency": "EUR" } });
        let event = cloud_event(&consumed("chargemesh.ticket.issued", &ticket));
        assert_eq!((&event["id"], &event["offset"], &event["data"]), (&json!("e-1"), &json!(9), &ticket));
        assert_eq!(line(&event), "2019-03-01T06:20:00Z  CP-1  ticket.issued  s-1  5.000 kWh  1.98 EUR");
        let state =
            json!({ "state": "CHARGING_POINT_STATE_OUT_OF_ORDER", "causes": ["CAUSE_STOPPED", "CAUSE_QUARANTINED"] });
        let event = cloud_event(&consumed("chargemesh.charging-point.state-changed", &state));
        assert!(line(&event).ends_with("charging-point.state-changed  out-of-order  stopped, quarantined"));
        let key = json!({ "holder": "driver/ana", "keyNo": "3", "state": "active" });
        assert!(line(&cloud_event(&consumed("chargemesh.key.changed", &key))).ends_with("driver/ana  key 3  active"));
        let strange = consumed("chargemesh.key.changed", &json!("\u{1b}[2J"));
        assert!(!line(&cloud_event(&strange)).contains('\u{1b}'));
    }

    #[test]
    fn a_type_is_given_with_or_without_its_prefix() {
        assert_eq!(kind("ticket.issued"), Ok("chargemesh.ticket.issued".into()));
        assert_eq!(kind("chargemesh.key.changed"), Ok("chargemesh.key.changed".into()));
        assert!(kind("tickets").unwrap_err().contains("ticket.issued"));
    }
}
