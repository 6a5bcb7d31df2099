//! A server that hangs: its processes live and do nothing.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The processes of a server that hangs; they go on when this is dropped.
#[derive(Debug)]
pub struct Frozen(Vec<Pid>);

impl Frozen {
    /// Stops a process and its children.
    pub(super) fn new(parent: i32) -> Self {
        let mut frozen = Self(Vec::new());
        // First the one that starts the others.
        frozen.stop(Pid::from_raw(parent));
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            frozen.stop(Pid::from_raw(child));
        }
        frozen
    }

    fn stop(&mut self, process: Pid) {
        if kill(process, Signal::SIGSTOP).is_ok() {
            self.0.push(process);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in self.0.iter().rev() {
            let _ = kill(*process, Signal::SIGCONT);
        }
    }
}
