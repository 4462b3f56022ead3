"use strict";
// Redoc asks another host for its own logo, which the page's policy refuses with an error: it is never asked for.
const image = HTMLImageElement.prototype;
const isOurs = (address) => new URL(address, location.href).origin === location.origin;
const source = Object.getOwnPropertyDescriptor(image, "src");
Object.defineProperty(image, "src", { ...source, set(address) { if (isOurs(address)) source.set.call(this, address); } });
image.setAttribute = function (name, value) {
  if (name !== "src" || isOurs(value)) Element.prototype.setAttribute.call(this, name, value);
};
