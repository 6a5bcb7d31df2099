//! Opens sealed readings outside Central, with nothing but the rows of their keys and the key that those are encrypted
//! under (SPEC 4.5, 5.2): for whoever keeps the topic `telemetry` and must prove what was in it.

use std::path::Path;

use mesh::process::Misuse;
use proto::{ChargingPointId, PeerId, events::v1::ReadingReceived, link::v1::SealedReading};
use store::{
    Database,
    central::{KeyEncryption, KeyError, KeyRow, SCHEMA},
};
use wire::telemetry::{OpenError, Opener};

/// The keys in Central's database.
#[derive(Debug)]
pub struct ReadingKeys {
    database: Database,
    encryption: KeyEncryption,
}

/// Why a sealed reading cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SealedReadingError {
    #[error("Central's database has no key {key_no} of {charging_point}")]
    NoKey { charging_point: ChargingPointId, key_no: u64 },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{0}")]
    Closed(#[from] OpenError),
    #[error(transparent)]
    Database(#[from] store::StoreError),
}

impl ReadingKeys {
    /// Opens the database at `url`, or that in Central's data folder, whose key-encryption key is read. Makes nothing.
    ///
    /// # Errors
    /// A file is missing or is not what it should be, or the database cannot be opened.
    pub async fn open(data: &Path, url: Option<&str>) -> anyhow::Result<Self> {
        let path = data.join("identity").join("kek");
        let unusable = |why: String| Misuse::new(format!("{}: {why}; name Central's data folder", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
        let encryption = KeyEncryption::parse(&text).map_err(|error| unusable(error.to_string()))?;
        let own = || format!("sqlite:{}", data.join("central.db").display());
        let url = url.map_or_else(own, str::to_owned);
        let database = Database::open(&url, SCHEMA).await.map_err(|error| Misuse::new(error.to_string()))?;
        Ok(Self { database, encryption })
    }

    /// What is in a sealed reading of this charging point.
    ///
    /// # Errors
    /// Its key is not known any more, or it was sealed under another key or by another charging point.
    pub async fn reading(
        &self,
        id: &ChargingPointId,
        sealed: &SealedReading,
    ) -> Result<ReadingReceived, SealedReadingError> {
        let key_no = sealed.key_no;
        let holder = PeerId::ChargingPoint(id.clone()).to_string();
        let number = i64::try_from(key_no).unwrap_or(-1);
        let row = self.database.read("key", move |conn| KeyRow::find(conn, &holder, number)).await?;
        let row = row.ok_or_else(|| SealedReadingError::NoKey { charging_point: id.clone(), key_no })?;
        let key = self.encryption.unwrap(&row)?;
        // One opener for each, since what is on a topic twice is shown twice.
        let (reading, _) = Opener::new(id.as_str()).open(sealed, &wire::LinkKey::from_bytes(*key), u64::MAX)?;
        Ok(ReadingReceived {
            charging_point_id: id.to_string(),
            stream_id: sealed.stream_id.clone(),
            key_no,
            reading: Some(crate::grpc::reading(&reading)),
        })
    }
}
