//! The contents of a network: its addresses, its operator, its simulated charging points and drivers. Kept in
//! `network.json`, so that a second start continues the same network.
//!
//! Pure except for reading and writing that file.

use std::{fs, io, path::Path, sync::Arc};

use mesh::process::Misuse;
use proto::{ChargingPointId, DriverId, OperatorName};
use serde::{Deserialize, Serialize};

use super::{layout::NetworkAddresses, status::replace};

const CITIES: [(&str, &str); 4] = [
    ("Valencia", "Marina, quay"),
    ("Alicante", "Explanada, bay"),
    ("Elche", "Palmeral, bay"),
    ("Castellon", "Grao, bay"),
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) addresses: Option<NetworkAddresses>,
    /// The operator whose identity the supervisor uses.
    pub(crate) operator: Option<OperatorName>,
    pub(crate) charging_points: Vec<SimulatedPoint>,
    pub(crate) drivers: Vec<SimulatedDriver>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SimulatedPoint {
    pub(crate) id: ChargingPointId,
    pub(crate) city: String,
    pub(crate) place: String,
    pub(crate) price_e4: u32,
}

impl SimulatedPoint {
    /// The names of its processes in the supervisor.
    pub(crate) fn processes(&self) -> [Arc<str>; 2] {
        [format!("{}/engine", self.id).into(), format!("{}/monitor", self.id).into()]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SimulatedDriver {
    pub(crate) id: DriverId,
    /// Seed of the driver's random requests.
    pub(crate) seed: u64,
}

impl SimulatedDriver {
    /// The name of its process in the supervisor.
    pub(crate) fn processes(&self) -> [Arc<str>; 1] {
        [format!("driver/{}", self.id).into()]
    }
}

/// What a command may give for a new charging point; the rest is chosen.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewPoint {
    pub(crate) id: Option<String>,
    pub(crate) city: Option<String>,
    pub(crate) place: Option<String>,
    pub(crate) price_e4: Option<u32>,
}

const FILE: &str = "network.json";

/// Whether `up` keeps a network's state in this folder.
pub(crate) fn exists_in(data: &Path) -> bool {
    data.join(FILE).exists()
}

impl Plan {
    pub(crate) fn read(data: &Path) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                Misuse::new(format!("{} is damaged: {e}; remove it to start with a new network", path.display())).into()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Misuse::new(format!("cannot read {}: {error}", path.display())).into()),
        }
    }

    pub(crate) fn write(&self, data: &Path) -> anyhow::Result<()> {
        let path = data.join(FILE);
        replace(&path, &serde_json::to_vec_pretty(self)?, 0o644)
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))
    }

    /// Changes the numbers of simulated charging points and drivers: keeps the first ones, gives new ones free ids.
    pub(crate) fn resize(&mut self, charging_points: Option<usize>, drivers: Option<usize>) -> Result<(), String> {
        if let Some(count) = charging_points {
            self.charging_points.truncate(count);
            while self.charging_points.len() < count {
                self.add_charging_point(NewPoint::default())?;
            }
        }
        if let Some(count) = drivers {
            self.drivers.truncate(count);
            while self.drivers.len() < count {
                self.add_driver(None)?;
            }
        }
        Ok(())
    }

    pub(crate) fn add_charging_point(&mut self, new: NewPoint) -> Result<SimulatedPoint, String> {
        let used = |id: &str| self.charging_points.iter().any(|p| p.id.as_str() == id);
        let id = match new.id {
            Some(id) if used(&id) => return Err(format!("charging point {id} exists already")),
            Some(id) => id,
            None => free_name("CP-", used),
        };
        let number = self.charging_points.len();
        let (city, place) = CITIES.get(number % CITIES.len()).copied().unwrap_or(("Valencia", "bay"));
        let point = SimulatedPoint {
            id: id.parse().map_err(|e| format!("{e}"))?,
            city: new.city.unwrap_or_else(|| city.to_owned()),
            place: new.place.unwrap_or_else(|| format!("{place} {}", number / CITIES.len() + 1)),
            price_e4: new.price_e4.unwrap_or(3900 + 50 * u32::try_from(number % 7).unwrap_or(0)),
        };
        self.charging_points.push(point.clone());
        Ok(point)
    }

    pub(crate) fn add_driver(&mut self, id: Option<String>) -> Result<SimulatedDriver, String> {
        let used = |id: &str| self.drivers.iter().any(|d| d.id.as_str() == id);
        let id = match id {
            Some(id) if used(&id) => return Err(format!("driver {id} exists already")),
            Some(id) => id,
            None => free_name("D-", used),
        };
        let seed =
            id.bytes().fold(1_469_598_103_934_665_603u64, |h, b| (h ^ u64::from(b)).wrapping_mul(1_099_511_628_211));
        let driver = SimulatedDriver { id: id.parse().map_err(|e| format!("{e}"))?, seed };
        self.drivers.push(driver.clone());
        Ok(driver)
    }

    pub(crate) fn remove_charging_point(&mut self, id: &str) -> Result<SimulatedPoint, String> {
        let at = self.charging_points.iter().position(|p| p.id.as_str() == id);
        at.map(|at| self.charging_points.remove(at))
            .ok_or_else(|| format!("there is no simulated charging point {id:?}"))
    }

    pub(crate) fn remove_driver(&mut self, id: &str) -> Result<SimulatedDriver, String> {
        let at = self.drivers.iter().position(|d| d.id.as_str() == id);
        at.map(|at| self.drivers.remove(at)).ok_or_else(|| format!("there is no simulated driver {id:?}"))
    }
}

fn free_name(prefix: &str, used: impl Fn(&str) -> bool) -> String {
    (1u32..).map(|n| format!("{prefix}{n}")).find(|name| !used(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_has_the_same_charging_points_and_drivers_and_a_higher_number_adds_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = Plan::read(folder.path()).unwrap();
        plan.resize(Some(2), Some(1)).unwrap();
        plan.write(folder.path()).unwrap();
        let mut again = Plan::read(folder.path()).unwrap();
        assert_eq!(again, plan);
        again.resize(None, Some(2)).unwrap();
        let ids: Vec<_> = again.charging_points.iter().map(|p| p.id.as_str()).collect();
        assert_eq!(ids, ["CP-1", "CP-2"]);
        assert_eq!(again.drivers[1].id.as_str(), "D-2");
        assert_ne!(again.drivers[0].seed, again.drivers[1].seed);
    }

    #[test]
    fn ids_are_unique_and_checked() {
        let mut plan = Plan::default();
        let new = |id: &str| NewPoint { id: Some(id.into()), ..NewPoint::default() };
        plan.add_charging_point(new("CP-2")).unwrap();
        assert!(plan.add_charging_point(new("CP-2")).unwrap_err().contains("already"));
        assert!(plan.add_charging_point(new("../x")).unwrap_err().contains("is not an id"));
        assert_eq!(plan.add_charging_point(NewPoint::default()).unwrap().id.as_str(), "CP-1");
        plan.remove_charging_point("CP-2").unwrap();
        assert!(plan.remove_charging_point("CP-2").is_err());
    }
}
