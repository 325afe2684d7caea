//! Kubernetes quantities ("10Gi", "500m"), as exact numbers: to tell a larger volume from a smaller one, and "0.5" from nothing new.
//!
//! The API server stores 8.3G as 8300M. In floating point the one is more than the other by a hair, and would be asked for again for ever.

/// What Kubernetes counts in: the billionth of one.
const BILLIONTHS: i32 = 9;
/// No quantity is larger; Kubernetes takes this one for it.
const MAX: u128 = i64::MAX as u128 * 10_u128.pow(BILLIONTHS.unsigned_abs());
/// Digits after the point that count: of an Ei the last of them is about one.
const FRACTION_MAX: usize = 18;
/// Beyond it a power of ten makes too much of anything, or nothing that counts.
const EXPONENT_MAX: i32 = 100;

/// How much a quantity is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Quantity {
    billionths: i128,
}

impl Quantity {
    /// It is more than nothing.
    pub fn is_positive(self) -> bool {
        self.billionths > 0
    }

    /// It is less than nothing.
    pub fn is_negative(self) -> bool {
        self.billionths < 0
    }

    /// Whole ones, as of bytes; what is less than nothing has none.
    pub fn whole(self) -> u64 {
        u64::try_from(self.billionths / 10_i128.pow(BILLIONTHS.unsigned_abs())).unwrap_or(0)
    }
}

/// The value of `text`, or `None` if it is not a quantity. What is finer than a billionth is rounded away from zero, as Kubernetes does it.
pub fn parse(text: &str) -> Option<Quantity> {
    let end = text.find(|character: char| !character.is_ascii_digit() && !matches!(character, '.' | '-' | '+'));
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (doublings, exponent) = factor(suffix)?;
    let unsigned = number.strip_prefix(['-', '+']).unwrap_or(number);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let mut digits = whole.bytes().chain(fraction.bytes()).peekable();
    if digits.peek().is_none() || !digits.all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.get(..FRACTION_MAX).unwrap_or(fraction);
    let exponent = exponent + BILLIONTHS - i32::try_from(fraction.len()).ok()?;
    // Digits are no number only where they are too many.
    let digits = format!("{whole}{fraction}").parse::<u128>().ok();
    let value = digits.and_then(|digits| scaled(digits, doublings, exponent)).map_or(MAX, |value| value.min(MAX));
    let value = i128::try_from(value).ok()?;
    Some(Quantity { billionths: if number.starts_with('-') { -value } else { value } })
}

/// How often a suffix doubles what stands before it, and by which power of ten it multiplies that.
fn factor(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            (0, exponent.clamp(-EXPONENT_MAX, EXPONENT_MAX))
        }
    })
}

/// `digits` times two to the power of `doublings` times ten to that of `exponent`, rounded up; `None` if that is too much.
fn scaled(digits: u128, doublings: u32, exponent: i32) -> Option<u128> {
    if digits == 0 {
        return Some(0);
    }
    let doubled = digits.checked_mul(1 << doublings)?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    if exponent >= 0 { doubled.checked_mul(power?) } else { Some(power.map_or(1, |power| doubled.div_ceil(power))) }
}

/// Whether both are quantities of one value.
pub fn same(left: &str, right: &str) -> bool {
    parse(left).is_some_and(|left| parse(right) == Some(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_value() {
        for (left, right) in [("0.5", "500m"), ("1Gi", "1024Mi"), ("1000", "1k"), ("1e3", "1k"), ("1.5Gi", "1536Mi")] {
            assert!(same(left, right), "{left} {right}");
        }
        for (left, right) in [("1G", "1Gi"), ("1", "2"), ("a", "a"), ("", ""), ("1e", "1")] {
            assert!(!same(left, right), "{left} {right}");
        }
        assert!(parse("10Gi") > parse("9Gi"));
    }

    #[test]
    fn what_the_api_server_makes_of_a_quantity_is_neither_more_nor_less() {
        let pairs = [
            ("8.3G", "8300M"),
            ("0.7", "700m"),
            ("1.1Gi", "1181116006400m"),
            ("+.5", "500m"),
            ("5.", "5"),
            ("2.5E+3", "2500"),
            ("-0.1", "-100m"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("0.1n", "1n"),
            ("8Ei", "9223372036854775807"),
            ("1e999", "8Ei"),
            ("1e-999", "1n"),
            ("0e999", "0"),
            ("0.1000000000000000000000000000000000000000000000", "0.1"),
            ("10000000000000000000000000000000000000000000000", "8Ei"),
        ];
        for (asked, stored) in pairs {
            assert!(same(asked, stored), "{asked} {stored}: {:?} {:?}", parse(asked), parse(stored));
        }
        for text in [".", "-", "+.", "--1", "1-2", "1.2.3", "1.0000000000000000000-2", "1e1.5", "Gi", "1 Gi", "1gi", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse("-1n").is_some_and(Quantity::is_negative) && parse("1n").is_some_and(Quantity::is_positive));
        let wholes = ["1536Mi", "1.9", "-3", "9Ei"].map(|text| parse(text).map(Quantity::whole));
        assert_eq!(wholes, [Some(1_610_612_736), Some(1), Some(0), Some(i64::MAX as u64)]);
    }
}
