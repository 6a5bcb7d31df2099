//! Simulated charging points and drivers: real processes of this binary that enrol themselves with a token.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use proto::registry::v1::{Identity, Kind};

use super::{
    RunningNetwork,
    layout::flags,
    network::LocalNetwork,
    plan::{NewPoint, SimulatedDriver, SimulatedPoint},
    process::ProcessSpec,
    status::replace,
};

/// Each charging point is two processes, each driver one.
const MAX_COUNT: usize = 500;

/// Parses a number of charging points or drivers, up to [`MAX_COUNT`].
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse::<u64>().map(usize::try_from) {
        Ok(Ok(count)) if count <= MAX_COUNT => Ok(count),
        Ok(_) => Err(format!(
            "at most {MAX_COUNT}, since each charging point is two processes and each driver one; for load there is \
             `chargemesh fleet`, many charging points in one process"
        )),
        Err(_) => Err(format!("expected a number from 0 to {MAX_COUNT}")),
    }
}

impl RunningNetwork {
    /// Starts every charging point and driver of the plan.
    pub(super) async fn start_simulated(&self) -> anyhow::Result<()> {
        let plan = self.plan.lock().await.clone();
        plan.write(&self.network.layout.data)?;
        let points = self.network.enrolled(Kind::ChargingPoint).await?;
        for point in &plan.charging_points {
            self.start_point(point, &points).await?;
        }
        let drivers = self.network.enrolled(Kind::Driver).await?;
        for driver in &plan.drivers {
            self.start_driver(driver, &drivers).await?;
        }
        Ok(())
    }

    async fn start_point(&self, point: &SimulatedPoint, known: &[Identity]) -> anyhow::Result<()> {
        let layout = &self.network.layout;
        let folder = layout.data.join("charging-points").join(point.id.as_str());
        let pairing = layout.run.join(format!("{}-pairing.sock", point.id));
        let place = pairing.display().to_string();
        let [engine, monitor] = point.processes();
        let (registry, central) = self.connect_addresses(&monitor).await?;

        let mut own = flags([
            ("--data", &folder),
            ("--pairing", &place),
            ("--id", &point.id.as_str()),
            ("--city", &point.city),
            ("--place", &point.place),
            ("--price", &proto::Price::from_e4(point.price_e4).to_string()),
            ("--registry", &registry),
            ("--central", &central),
        ]);
        let enrolled = has_credential(&folder.join("identity.json"));
        if let Some(token) = self.token_file(&folder, enrolled, Kind::ChargingPoint, point.id.as_str(), known).await? {
            own.extend(flags([("--token-file", &token)]));
        }
        self.start_process(self.network.spec(&monitor, "monitor", own, &self.config.log_level)).await?;

        let mut own = flags([
            ("--data", &folder),
            ("--pairing", &place),
            ("--plug-in-after", &format!("{}ms", self.config.plug_in_after.as_millis())),
            ("--speed", &self.config.speed.to_string()),
        ]);
        own.push("--unattended".into());
        if self.config.has_drills() {
            own.push("--drills".into());
        }
        self.start_process(self.network.spec(&engine, "engine", own, &self.config.log_level)).await
    }

    async fn start_driver(&self, driver: &SimulatedDriver, known: &[Identity]) -> anyhow::Result<()> {
        let folder = self.network.layout.data.join("drivers").join(driver.id.as_str());
        let [name] = driver.processes();
        let (registry, central) = self.connect_addresses(&name).await?;
        let mut own = flags([
            ("--data", &folder),
            ("--id", &driver.id.as_str()),
            ("--registry", &registry),
            ("--central", &central),
            ("--random-requests", &driver.seed.to_string()),
            ("--pause", &format!("{}ms", self.config.pause.as_millis())),
            ("--confirm", &"always"),
        ]);
        let enrolled = has_credential(&folder.join("identity.json"));
        if let Some(token) = self.token_file(&folder, enrolled, Kind::Driver, driver.id.as_str(), known).await? {
            own.extend(flags([("--token-file", &token)]));
        }
        self.start_process(self.network.spec(&name, "driver", own, &self.config.log_level)).await
    }

    /// The addresses at which this process reaches Registry and Central: the fault proxy's, where there is one.
    async fn connect_addresses(&self, process: &str) -> anyhow::Result<(SocketAddr, SocketAddr)> {
        let LocalNetwork { fault_proxy, addresses, .. } = &self.network;
        Ok((
            fault_proxy.to(addresses.registry_https, process).await?,
            fault_proxy.to(addresses.central_link, process).await?,
        ))
    }

    async fn start_process(&self, spec: ProcessSpec) -> anyhow::Result<()> {
        self.network.supervisor.start(spec).await.map_err(anyhow::Error::msg)
    }

    /// Writes a token beside the future credential; `None` where the identity is enrolled already.
    async fn token_file(
        &self,
        folder: &Path,
        enrolled: bool,
        kind: Kind,
        id: &str,
        known: &[Identity],
    ) -> anyhow::Result<Option<std::path::PathBuf>> {
        if enrolled {
            return Ok(None);
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
        let token = self.network.token(kind, id, known).await.with_context(|| format!("cannot enrol {id}"))?;
        let path = folder.join("token");
        replace(&path, token.as_bytes(), 0o600).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(path))
    }

    // ---- Changes while the network runs (SPEC 1.8): a failed one leaves the plan as it was, and can be repeated

    pub(super) async fn add_point(&self, new: NewPoint) -> Result<SimulatedPoint, String> {
        let mut plan = self.plan.lock().await;
        let mut next = plan.clone();
        let point = next.add_charging_point(new)?;
        let known = self.network.enrolled(Kind::ChargingPoint).await.map_err(describe)?;
        let started = self.start_point(&point, &known).await;
        if let Err(error) = started.and_then(|()| next.write(&self.network.layout.data)) {
            self.end(&point.processes()).await;
            return Err(describe(error));
        }
        *plan = next;
        Ok(point)
    }

    pub(super) async fn add_driver(&self, id: Option<String>) -> Result<SimulatedDriver, String> {
        let mut plan = self.plan.lock().await;
        let mut next = plan.clone();
        let driver = next.add_driver(id)?;
        let known = self.network.enrolled(Kind::Driver).await.map_err(describe)?;
        let started = self.start_driver(&driver, &known).await;
        if let Err(error) = started.and_then(|()| next.write(&self.network.layout.data)) {
            self.end(&driver.processes()).await;
            return Err(describe(error));
        }
        *plan = next;
        Ok(driver)
    }

    /// Ends processes for good, and closes their connections at the fault proxy.
    async fn end(&self, processes: &[Arc<str>]) {
        self.network.supervisor.end(processes, true).await;
        processes.iter().for_each(|process| self.network.fault_proxy.forget(process));
    }

    /// Ends its processes, removes its identity at Registry, and deletes its folder.
    pub(super) async fn remove_point(&self, id: &str) -> Result<(), String> {
        let mut plan = self.plan.lock().await;
        let mut next = plan.clone();
        let point = next.remove_charging_point(id)?;
        self.end(&point.processes()).await;
        let known = self.network.enrolled(Kind::ChargingPoint).await.map_err(describe)?;
        if known.iter().any(|i| i.id == id) {
            self.network.remove_identity(Kind::ChargingPoint, id).await.map_err(describe)?;
        }
        next.write(&self.network.layout.data).map_err(describe)?;
        *plan = next;
        delete_folder(&self.network.layout.data.join("charging-points").join(id))
    }

    pub(super) async fn remove_driver(&self, id: &str) -> Result<(), String> {
        let mut plan = self.plan.lock().await;
        let mut next = plan.clone();
        let driver = next.remove_driver(id)?;
        self.end(&driver.processes()).await;
        let known = self.network.enrolled(Kind::Driver).await.map_err(describe)?;
        if known.iter().any(|i| i.id == id) {
            self.network.remove_identity(Kind::Driver, id).await.map_err(describe)?;
        }
        next.write(&self.network.layout.data).map_err(describe)?;
        *plan = next;
        delete_folder(&self.network.layout.data.join("drivers").join(id))
    }
}

fn describe(error: anyhow::Error) -> String {
    format!("{error:#}")
}

fn delete_folder(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("removed, except for the folder {}, which cannot be deleted: {error}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn has_credential(file: &Path) -> bool {
    let stored = fs::read(file).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    stored.is_some_and(|stored| stored.get("credential").is_some_and(|c| c.as_str().is_some_and(|c| !c.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_simulated_processes_is_bounded() {
        assert_eq!(count("0"), Ok(0));
        assert_eq!(count("500"), Ok(500));
        for many in ["501", "1000000", "18446744073709551615"] {
            assert!(count(many).unwrap_err().contains("chargemesh fleet"), "{many}");
        }
        for none in ["-1", "few", ""] {
            assert!(count(none).unwrap_err().contains("a number from 0 to 500"), "{none}");
        }
    }
}
