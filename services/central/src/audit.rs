//! What is written to the audit (SPEC 8.1): the one list of actions, and an entry before it is numbered and chained by
//! the store. Never a secret.

use mesh::clock::Now;
use proto::link::v1::Reason;

use crate::origin::Origin;

macro_rules! actions {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The action of an entry, as it is shown and filtered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum AuditAction { $($name),* }

        impl AuditAction {
            /// All of them, as text.
            pub const TEXTS: &'static [&'static str] = &[$($text),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

actions! {
    RoleStarted = "ROLE_STARTED",
    RoleStopped = "ROLE_STOPPED",
    ComponentFailed = "COMPONENT_FAILED",
    ComponentRecovered = "COMPONENT_RECOVERED",
    LinkUp = "LINK_UP",
    LinkDown = "LINK_DOWN",
    LinkTakenOver = "LINK_TAKEN_OVER",
    Quarantined = "QUARANTINED",
    Released = "QUARANTINE_RELEASED",
    Login = "LOGIN",
    UnauthenticatedRefused = "UNAUTHENTICATED_REFUSED",
    CallRefused = "CALL_REFUSED",
    Unintelligible = "UNINTELLIGIBLE",
    Intelligible = "INTELLIGIBLE",
    Fault = "FAULT",
    Recovery = "RECOVERY",
    SupplyRequested = "SUPPLY_REQUESTED",
    SupplyGranted = "SUPPLY_GRANTED",
    SupplyRefused = "SUPPLY_REFUSED",
    SupplyStarted = "SUPPLY_STARTED",
    SupplyStopOrdered = "SUPPLY_STOP_ORDERED",
    SupplyEnded = "SUPPLY_ENDED",
    SupplyReleased = "SUPPLY_RELEASED",
    SupplySettling = "SUPPLY_SETTLING",
    Discrepancy = "DISCREPANCY",
    EndNotOrdered = "END_NOT_ORDERED",
    MeterRanBackwards = "METER_RAN_BACKWARDS",
    MeterImplausible = "METER_IMPLAUSIBLE",
    TicketCorrected = "TICKET_CORRECTED",
    DisputeSettled = "DISPUTE_SETTLED",
    TicketTakenBack = "TICKET_TAKEN_BACK",
    OtherTicketFound = "OTHER_TICKET_FOUND",
    LedgerBehind = "LEDGER_BEHIND",
    Stopped = "STOPPED",
    Resumed = "RESUMED",
    MaintenanceOn = "MAINTENANCE_ON",
    MaintenanceOff = "MAINTENANCE_OFF",
    FrostBegan = "FROST_BEGAN",
    FrostEnded = "FROST_ENDED",
    WeatherBlocked = "WEATHER_BLOCKED",
    WeatherUnblocked = "WEATHER_UNBLOCKED",
    WeatherAlarm = "WEATHER_ALARM",
    PriceSet = "PRICE_SET",
    RatedPowerSet = "RATED_POWER_SET",
    Moved = "MOVED",
    OrderGiven = "ORDER_GIVEN",
    OrderRefused = "ORDER_REFUSED",
    OrderUnchanged = "ORDER_UNCHANGED",
    OrderCancelled = "ORDER_CANCELLED",
    OrderOvertaken = "ORDER_OVERTAKEN",
    KeyGranted = "KEY_GRANTED",
    KeyProven = "KEY_PROVEN",
    KeyRotated = "KEY_ROTATED",
    KeyRotationOrdered = "KEY_ROTATION_ORDERED",
    KeyRenewed = "KEY_RENEWED",
    KeyRevoked = "KEY_REVOKED",
    Restored = "RESTORED",
    Enrolled = "ENROLLED",
    Removed = "REMOVED",
    CredentialVoid = "CREDENTIAL_VOID",
}

/// One entry, not yet numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    pub at: i64,
    pub actor: String,
    pub address: String,
    pub action: AuditAction,
    pub object: String,
    pub parameters: Vec<(&'static str, String)>,
    pub outcome: String,
}

impl AuditRecord {
    /// An action on an object that went well; who and when are added by [`AuditRecord::by`].
    pub fn new(action: AuditAction, object: impl ToString) -> Self {
        Self {
            at: 0,
            actor: String::new(),
            address: String::new(),
            action,
            object: object.to_string(),
            parameters: Vec::new(),
            outcome: "ok".to_owned(),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.parameters.push((name, value.to_string()));
        self
    }

    pub fn outcome(mut self, reason: Reason, detail: &str) -> Self {
        self.outcome =
            if detail.is_empty() { reason.code().to_owned() } else { format!("{}: {detail}", reason.code()) };
        self
    }

    pub fn by(mut self, origin: &Origin, now: Now) -> Self {
        self.at = now.wall_ms;
        self.actor = origin.actor.as_ref().to_owned();
        self.address = origin.address.as_ref().to_owned();
        let why = [("order", &origin.order), ("reason", &origin.reason)];
        let said = why.into_iter().filter(|(_, value)| !value.is_empty());
        said.fold(self, |entry, (name, value)| entry.with(name, value))
    }

    /// The parameters as a JSON object.
    pub fn parameters_json(&self) -> String {
        let map: serde_json::Map<_, _> =
            self.parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
        serde_json::Value::Object(map).to_string()
    }
}
