// How numbers are written on the page.
export const number = (value) => (Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(4) : value.toExponential(2));
export const short = (value) => String(Number(value.toPrecision(3)));
