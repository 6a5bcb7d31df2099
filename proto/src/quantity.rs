//! Energy, price and money as integers (SPEC 3.6). Never floats.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, Sub},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Whole watt-hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Energy(u64);

impl Energy {
    pub const ZERO: Self = Self(0);

    pub const fn from_wh(wh: u64) -> Self {
        Self(wh)
    }

    pub const fn wh(self) -> u64 {
        self.0
    }

    /// `self - earlier`, or `None` where the register would have run backwards.
    pub const fn since(self, earlier: Self) -> Option<Self> {
        match self.0.checked_sub(earlier.0) {
            Some(wh) => Some(Self(wh)),
            None => None,
        }
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Energy {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Energy {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Energy {
    /// As `12.345 kWh`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:03} kWh", self.0 / 1000, self.0 % 1000))
    }
}

/// Ten-thousandths of the currency unit per kWh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Price(u32);

/// A price that is not a decimal number with at most four places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a price: a decimal number with at most four places, such as 0.3950, up to 400000")]
pub struct PriceError(String);

impl Price {
    pub const fn from_e4(e4: u32) -> Self {
        Self(e4)
    }

    pub const fn e4(self) -> u32 {
        self.0
    }

    /// What `energy` costs: energy × price, rounded once, half to even, to the currency's minor unit (SPEC 3.6).
    pub fn amount(self, energy: Energy, currency: Currency) -> Money {
        let scaled = u128::from(energy.0) * u128::from(self.0) * 10u128.pow(currency.digits());
        // Wh to kWh is 10^3, ten-thousandths to units 10^4.
        let (whole, rest) = (scaled / 10_000_000, scaled % 10_000_000);
        let up = rest > 5_000_000 || (rest == 5_000_000 && whole % 2 == 1);
        Money { minor: i64::try_from(whole + u128::from(up)).unwrap_or(i64::MAX), currency }
    }
}

impl FromStr for Price {
    type Err = PriceError;
    fn from_str(text: &str) -> Result<Self, PriceError> {
        let (units, places) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let parse = || {
            if !digits(units) || !digits(places) || places.len() > 4 {
                return None;
            }
            let units: u32 = units.parse().ok()?;
            let places: u32 = format!("{places:0<4}").parse().ok()?;
            units.checked_mul(10_000)?.checked_add(places).map(Self)
        };
        parse().ok_or_else(|| PriceError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000))
    }
}

/// An ISO 4217 currency and how many digits its minor unit has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency {
    code: [u8; 3],
    digits: u8,
}

/// A code that is not three capital letters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a currency: three capital letters of ISO 4217, such as EUR")]
pub struct CurrencyError(String);

impl Currency {
    pub const EUR: Self = Self { code: *b"EUR", digits: 2 };

    /// Digits of the minor unit: 2 for EUR, 0 for JPY, 3 for KWD.
    pub const fn digits(self) -> u32 {
        self.digits as u32
    }

    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or("???")
    }
}

impl Default for Currency {
    fn default() -> Self {
        Self::EUR
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;
    fn from_str(text: &str) -> Result<Self, CurrencyError> {
        let code: [u8; 3] = text
            .as_bytes()
            .try_into()
            .ok()
            .filter(|code: &[u8; 3]| code.iter().all(u8::is_ascii_uppercase))
            .ok_or_else(|| CurrencyError(text.chars().take(40).collect()))?;
        // The exceptions of ISO 4217; every other currency has two digits.
        let digits = match &code {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            _ => 2,
        };
        Ok(Self { code, digits })
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount in minor units of its currency; negative where a correction refunds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Money {
    pub minor: i64,
    pub currency: Currency,
}

impl Sub for Money {
    type Output = Self;
    /// Both amounts must have the same currency.
    fn sub(self, other: Self) -> Self {
        debug_assert_eq!(self.currency, other.currency);
        Self { minor: self.minor.saturating_sub(other.minor), currency: self.currency }
    }
}

impl fmt::Display for Money {
    /// As `12.34 EUR`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10u64.pow(self.currency.digits());
        let (sign, minor) = (if self.minor < 0 { "-" } else { "" }, self.minor.unsigned_abs());
        let text = match self.currency.digits() {
            0 => format!("{sign}{minor} {}", self.currency),
            n => format!("{sign}{}.{:0width$} {}", minor / unit, minor % unit, self.currency, width = n as usize),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_amount_is_rounded_once_half_to_even_spec_3_6() {
        let cents = |wh, e4| Price::from_e4(e4).amount(Energy::from_wh(wh), Currency::EUR).minor;
        assert_eq!(cents(1000, 3950), 40, "0.395 EUR is half way, and 40 is even");
        assert_eq!(cents(1000, 3850), 38, "0.385 EUR is half way, and 38 is even");
        assert_eq!(cents(1001, 3850), 39);
        assert_eq!(cents(999, 3950), 39);
        assert_eq!(cents(0, 3950), 0);
        assert_eq!(cents(17_366, 3000), 521, "5.2098 EUR");
        assert_eq!(cents(u64::MAX, u32::MAX), i64::MAX, "no overflow, whatever a meter says");
    }

    #[test]
    fn amounts_follow_the_digits_of_the_currency() {
        let amount = |code: &str| Price::from_e4(305_000).amount(Energy::from_wh(1500), code.parse().unwrap());
        assert_eq!(amount("JPY").to_string(), "46 JPY");
        assert_eq!(amount("EUR").to_string(), "45.75 EUR");
        assert_eq!(amount("KWD").to_string(), "45.750 KWD");
    }

    #[test]
    fn prices_are_read_and_shown_with_four_places() {
        for (text, e4) in [("0.3950", 3950), ("0.395", 3950), ("1", 10_000), ("12.0001", 120_001)] {
            assert_eq!(text.parse(), Ok(Price::from_e4(e4)));
        }
        assert_eq!(Price::from_e4(3950).to_string(), "0.3950");
        for bad in ["", ".5", "1.", "0.12345", "-1", "1e3", "999999999", "0,39"] {
            assert!(bad.parse::<Price>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_is_within_half_a_minor_unit_of_the_exact_value(wh in 0u64..1_000_000_000, e4 in 0u32..1_000_000) {
            let minor = i128::from(Price::from_e4(e4).amount(Energy::from_wh(wh), Currency::EUR).minor);
            let exact_e5 = i128::from(wh) * i128::from(e4); // in 10^-5 cents
            prop_assert!((minor * 100_000 - exact_e5).abs() <= 50_000);
        }

        #[test]
        fn a_price_survives_being_shown_and_read(e4: u32) {
            prop_assert_eq!(Price::from_e4(e4).to_string().parse(), Ok(Price::from_e4(e4)));
        }
    }
}
