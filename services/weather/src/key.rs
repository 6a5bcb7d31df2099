//! The provider's key: from the environment, or from a file that is read at each request, so that a new key is in use
//! without a restart. Never shown.

use std::{fmt, path::PathBuf};

use zeroize::Zeroizing;

/// Where the key is.
pub(crate) enum ApiKey {
    File(PathBuf),
    Given(Zeroizing<String>),
    None,
}

impl ApiKey {
    pub(crate) fn new(file: Option<PathBuf>, given: Option<&str>) -> Self {
        match (file, given) {
            (Some(file), _) => Self::File(file),
            (None, Some(key)) => Self::Given(Zeroizing::new(key.trim().to_owned())),
            (None, None) => Self::None,
        }
    }

    /// Where it is, for people.
    pub(crate) fn source(&self) -> String {
        match self {
            Self::File(file) => file.display().to_string(),
            Self::Given(_) => "CHARGEMESH_WEATHER_KEY".to_owned(),
            Self::None => "nowhere".to_owned(),
        }
    }

    /// # Errors
    /// A sentence that says what is missing.
    pub(crate) async fn read(&self) -> Result<Zeroizing<String>, String> {
        match self {
            Self::File(file) => {
                let text = tokio::fs::read_to_string(file).await.map(Zeroizing::new);
                let text = text.map_err(|error| format!("cannot read the key file {}: {error}", file.display()))?;
                let key = Zeroizing::new(text.trim().to_owned());
                if key.is_empty() { Err(format!("the key file {} is empty", file.display())) } else { Ok(key) }
            }
            Self::Given(key) => Ok(key.clone()),
            Self::None => Err("OpenWeather needs a key: give --key-file FILE or CHARGEMESH_WEATHER_KEY".to_owned()),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKey").field(&self.source()).finish()
    }
}
