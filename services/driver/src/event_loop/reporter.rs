//! What the person and the health of the process are told, each change once.

use mesh::{
    clock::{Clock, Now},
    health::Health,
    skew,
};
use tokio::sync::mpsc;

use crate::notification::Notification;

pub(super) struct Reporter {
    clock: Clock,
    notifications: mpsc::Sender<(Now, Notification)>,
    /// The health of the process, where the driver is alone in it.
    health: Option<Health>,
    unreachable: Option<String>,
    clock_trouble: Option<String>,
    save_trouble: Option<String>,
    /// A ticket could not be stored.
    pub(super) ticket_waits: bool,
    pub(super) file_is_over: bool,
}

impl Reporter {
    pub(super) fn new(clock: Clock, notifications: mpsc::Sender<(Now, Notification)>, health: Option<Health>) -> Self {
        Self {
            clock,
            notifications,
            health,
            unreachable: None,
            clock_trouble: None,
            save_trouble: None,
            ticket_waits: false,
            file_is_over: false,
        }
    }

    pub(super) async fn notify(&mut self, notification: Notification) {
        let now = self.clock.now();
        if matches!(notification, Notification::Running(_)) {
            // The next value says more: nothing waits for a slow screen.
            drop(self.notifications.try_send((now, notification)));
        } else {
            drop(self.notifications.send((now, notification)).await);
        }
    }

    pub(super) async fn hint(&mut self, text: String) {
        self.notify(Notification::Hint { text }).await;
    }

    pub(super) async fn linked(&mut self, address: String, key_no: u64) {
        self.unreachable = None;
        self.notify(Notification::LinkUp { address, key_no }).await;
    }

    pub(super) async fn unreachable(&mut self, why: String) {
        if self.unreachable.as_ref() != Some(&why) {
            self.unreachable = Some(why.clone());
            self.notify(Notification::CannotReachCentral { detail: why }).await;
        }
    }

    /// To be without Central is no reason to be restarted (SPEC 9.1).
    pub(super) fn central(&self, trouble: Option<String>) {
        let Some(central) = self.health.as_ref().map(|health| health.component("central")) else { return };
        match trouble {
            None => central.ready(),
            Some(why) => central.degraded(format!("cannot reach Central: {why}")),
        }
    }

    /// A wrong clock, and that it is right again (SPEC 10.8).
    pub(super) async fn clock(&mut self, trouble: Option<String>) {
        if let Some(health) = &self.health {
            skew::report(health, "clock against central", trouble.clone());
        }
        let is_news = trouble.is_some() != self.clock_trouble.is_some();
        self.clock_trouble.clone_from(&trouble);
        if is_news {
            let agrees = || "this host's clock agrees with Central's again".to_owned();
            self.hint(trouble.unwrap_or_else(agrees)).await;
        }
    }

    /// Why the identity cannot be stored.
    pub(super) async fn save(&mut self, trouble: Option<String>) {
        if trouble != self.save_trouble {
            self.save_trouble.clone_from(&trouble);
            if let Some(why) = trouble {
                self.hint(format!("the identity cannot be stored: {why}")).await;
            }
        }
    }
}
