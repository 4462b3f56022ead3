"use strict";
// The buyer came to pay: no second click is needed. Without scripts the button does it.
document.getElementById("pay").submit();
