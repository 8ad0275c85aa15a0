// Starts Swagger UI on this server's own description. A file of its own, so that the page needs no
// inline script.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
