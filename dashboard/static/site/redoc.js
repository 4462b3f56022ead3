// Redoc asks another host for its own logo, which the page's policy refuses with an error: it is never asked for.
const setAttribute = Element.prototype.setAttribute;
HTMLImageElement.prototype.setAttribute = function (name, value) {
  if (name !== "src" || new URL(value, location.href).origin === location.origin) setAttribute.call(this, name, value);
};
