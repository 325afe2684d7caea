//! Kubernetes quantities ("10Gi", "500m"), as numbers: to tell a larger volume from a smaller one, and "0.5" from nothing new.

/// The value of `text`, or `None` if it is not a quantity.
pub fn parse(text: &str) -> Option<f64> {
    let digits = text.find(|character: char| !character.is_ascii_digit() && !matches!(character, '.' | '-' | '+'));
    let (number, suffix) = text.split_at(digits.unwrap_or(text.len()));
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

/// Whether both are quantities of one value.
pub fn same(left: &str, right: &str) -> bool {
    match (parse(left), parse(right)) {
        (Some(left), Some(right)) => (left - right).abs() <= f64::EPSILON * left.abs(),
        _ => false,
    }
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
}
